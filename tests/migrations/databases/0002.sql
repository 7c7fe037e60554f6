-- A file of revision 0002, as a release wrote it, with runs that had not ended.
BEGIN TRANSACTION;
CREATE TABLE attempts (
	run_id VARCHAR(255) NOT NULL, 
	scheduled_event_id INTEGER NOT NULL, 
	attempt INTEGER NOT NULL, 
	activity_type VARCHAR(255) NOT NULL, 
	state VARCHAR(32) NOT NULL, 
	due_at BIGINT NOT NULL, 
	started_at BIGINT, 
	closed_at BIGINT, 
	failure TEXT, 
	worker_id VARCHAR(255), 
	PRIMARY KEY (run_id, scheduled_event_id, attempt)
)
 WITHOUT ROWID

;
INSERT INTO "attempts" VALUES('019b76da-a800-7534-a375-c0c6b1e7a5a2',2,1,'old.ship','failed',1767225600000027,1767225600000023,1767225600000028,'{"message":"no carrier","type":"ConnectionError","module":"builtins","bases":["OSError"],"classes":["builtins:ConnectionError","builtins:OSError","builtins:Exception"],"stack_trace":"  File \"orders.py\", line 14, in ship\n    async def ship(cents:int)->str: raise ConnectionError(\"no carrier\")\n","arguments":{"json":["no carrier"]}}','6341-19a9c0712c87');
INSERT INTO "attempts" VALUES('019b76da-a800-7534-a375-c0c6b1e7a5a2',2,2,'old.ship','backoff',1767225601000026,NULL,NULL,NULL,'6341-19a9c0712c87');
CREATE TABLE counters (
	name VARCHAR(64) NOT NULL, 
	value BIGINT NOT NULL, 
	PRIMARY KEY (name)
)
 WITHOUT ROWID

;
INSERT INTO "counters" VALUES('fence',1);
CREATE TABLE durable_schema (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT durable_schema_pkc PRIMARY KEY (version_num)
);
INSERT INTO "durable_schema" VALUES('0002');
CREATE TABLE history (
	run_id VARCHAR(255) NOT NULL, 
	event_id INTEGER NOT NULL, 
	task_number INTEGER NOT NULL, 
	type VARCHAR(255) NOT NULL, 
	time BIGINT NOT NULL, 
	data TEXT NOT NULL, 
	flags BIGINT NOT NULL, 
	fence BIGINT NOT NULL, 
	PRIMARY KEY (run_id, event_id)
)
 WITHOUT ROWID

;
INSERT INTO "history" VALUES('019b76da-a800-7534-a375-c0c5d2d1eed9',1,1,'WorkflowExecutionStarted',1767225600000010,'{"workflow_type":"old.done","input":[],"task_queue":"default","workflow_id":"done","run_id":"019b76da-a800-7534-a375-c0c5d2d1eed9","first_run_id":"019b76da-a800-7534-a375-c0c5d2d1eed9","request_id":"019b76da-a800-7534-a375-c0c5d2d1eed9","namespace":"default","execution_timeout":null,"run_timeout":null,"continued_from_run_id":null,"parent_workflow_id":null,"parent_run_id":null,"parent_initiated_event_id":null,"root_workflow_id":"done","root_run_id":"019b76da-a800-7534-a375-c0c5d2d1eed9","version":null,"identity":"1@elsewhere","attempt":1,"headers":{},"memo":{}}',17935,1);
INSERT INTO "history" VALUES('019b76da-a800-7534-a375-c0c5d2d1eed9',2,1,'ActivityTaskScheduled',1767225600000010,'{"activity_id":"1","activity_type":"old.charge","input":[{"json":1}],"settings":{"task_queue":"default","start_to_close_timeout":60000000,"schedule_to_close_timeout":null,"schedule_to_start_timeout":null,"heartbeat_timeout":null,"retry_policy":{"max_attempts":3,"initial_interval":1000000,"max_interval":60000000,"backoff_coefficient":2.0,"retryable_errors":[],"non_retryable":[]},"cancellation_type":"try_cancel","at_most_once":false},"headers":{},"summary":null,"source":"orders.py:25"}',17935,1);
INSERT INTO "history" VALUES('019b76da-a800-7534-a375-c0c5d2d1eed9',3,2,'ActivityTaskCompleted',1767225600000014,'{"scheduled_event_id":2,"result":{"json":"receipt 1"},"attempt":1,"started_at":1767225600000011,"identity":"6341-19a9c0712c87","last_failure":null}',17935,1);
INSERT INTO "history" VALUES('019b76da-a800-7534-a375-c0c5d2d1eed9',4,2,'WorkflowExecutionCompleted',1767225600000014,'{"result":{"json":"receipt 1"}}',17935,1);
INSERT INTO "history" VALUES('019b76da-a800-7534-a375-c0c682ce8698',1,1,'WorkflowExecutionStarted',1767225600000015,'{"workflow_type":"old.order","input":[{"json":5}],"task_queue":"default","workflow_id":"order","run_id":"019b76da-a800-7534-a375-c0c682ce8698","first_run_id":"019b76da-a800-7534-a375-c0c682ce8698","request_id":"019b76da-a800-7534-a375-c0c682ce8698","namespace":"default","execution_timeout":null,"run_timeout":null,"continued_from_run_id":null,"parent_workflow_id":null,"parent_run_id":null,"parent_initiated_event_id":null,"root_workflow_id":"order","root_run_id":"019b76da-a800-7534-a375-c0c682ce8698","version":null,"identity":"1@elsewhere","attempt":1,"headers":{},"memo":{}}',17935,1);
INSERT INTO "history" VALUES('019b76da-a800-7534-a375-c0c682ce8698',2,1,'ActivityTaskScheduled',1767225600000015,'{"activity_id":"1","activity_type":"old.charge","input":[{"json":5}],"settings":{"task_queue":"default","start_to_close_timeout":60000000,"schedule_to_close_timeout":null,"schedule_to_start_timeout":null,"heartbeat_timeout":null,"retry_policy":{"max_attempts":3,"initial_interval":1000000,"max_interval":60000000,"backoff_coefficient":2.0,"retryable_errors":[],"non_retryable":[]},"cancellation_type":"try_cancel","at_most_once":false},"headers":{},"summary":null,"source":"orders.py:20"}',17935,1);
INSERT INTO "history" VALUES('019b76da-a800-7534-a375-c0c682ce8698',3,2,'WorkflowExecutionSignaled',1767225600000018,'{"signal_name":"paid","input":[{"json":7}],"request_id":"a0c3343363777026d10ab3110c3cdc4a","identity":"1@elsewhere","headers":{}}',17935,1);
INSERT INTO "history" VALUES('019b76da-a800-7534-a375-c0c682ce8698',4,3,'ActivityTaskCompleted',1767225600000020,'{"scheduled_event_id":2,"result":{"json":"receipt 5"},"attempt":1,"started_at":1767225600000016,"identity":"6341-19a9c0712c87","last_failure":null}',17935,1);
INSERT INTO "history" VALUES('019b76da-a800-7534-a375-c0c6b1e7a5a2',1,1,'WorkflowExecutionStarted',1767225600000022,'{"workflow_type":"old.shipping","input":[{"json":9}],"task_queue":"default","workflow_id":"shipping","run_id":"019b76da-a800-7534-a375-c0c6b1e7a5a2","first_run_id":"019b76da-a800-7534-a375-c0c6b1e7a5a2","request_id":"019b76da-a800-7534-a375-c0c6b1e7a5a2","namespace":"default","execution_timeout":null,"run_timeout":null,"continued_from_run_id":null,"parent_workflow_id":null,"parent_run_id":null,"parent_initiated_event_id":null,"root_workflow_id":"shipping","root_run_id":"019b76da-a800-7534-a375-c0c6b1e7a5a2","version":null,"identity":"1@elsewhere","attempt":1,"headers":{},"memo":{}}',17935,1);
INSERT INTO "history" VALUES('019b76da-a800-7534-a375-c0c6b1e7a5a2',2,1,'ActivityTaskScheduled',1767225600000022,'{"activity_id":"1","activity_type":"old.ship","input":[{"json":9}],"settings":{"task_queue":"default","start_to_close_timeout":60000000,"schedule_to_close_timeout":null,"schedule_to_start_timeout":null,"heartbeat_timeout":null,"retry_policy":{"max_attempts":3,"initial_interval":1000000,"max_interval":60000000,"backoff_coefficient":2.0,"retryable_errors":[],"non_retryable":[]},"cancellation_type":"try_cancel","at_most_once":false},"headers":{},"summary":null,"source":"orders.py:23"}',17935,1);
CREATE TABLE inbox (
	sequence INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	run_id VARCHAR(255) NOT NULL, 
	kind VARCHAR(255) NOT NULL, 
	request_id VARCHAR(255) NOT NULL, 
	data TEXT NOT NULL, 
	created_at BIGINT NOT NULL, 
	CONSTRAINT inbox_request_id UNIQUE (run_id, request_id)
);
INSERT INTO "inbox" VALUES(1,'019b76da-a800-7534-a375-c0c682ce8698','signal','49f9ede2f9f9ce7f6ef4f32c85adf200','{"signal_name":"paid","input":[{"json":8}],"request_id":"49f9ede2f9f9ce7f6ef4f32c85adf200","identity":"1@elsewhere","headers":{}}',1767225600000031);
CREATE TABLE replies (
	run_id VARCHAR(255) NOT NULL, 
	request_id VARCHAR(255) NOT NULL, 
	data TEXT NOT NULL, 
	created_at BIGINT NOT NULL, 
	PRIMARY KEY (run_id, request_id)
);
INSERT INTO "replies" VALUES('019b76da-a800-7534-a375-c0c682ce8698','asked','1',1);
CREATE TABLE runs (
	run_id VARCHAR(255) NOT NULL, 
	namespace VARCHAR(255) NOT NULL, 
	workflow_id VARCHAR(255) NOT NULL, 
	workflow_type VARCHAR(255) NOT NULL, 
	task_queue VARCHAR(255) NOT NULL, 
	status VARCHAR(32) NOT NULL, 
	started_at BIGINT NOT NULL, 
	first_run_id VARCHAR(255) NOT NULL, 
	request_id VARCHAR(255) NOT NULL, 
	closed_at BIGINT, 
	owner VARCHAR(255), 
	is_active SMALLINT NOT NULL, 
	wake_at BIGINT, 
	stuck TEXT, 
	version VARCHAR(255), 
	continued_from_run_id VARCHAR(255), 
	parent_workflow_id VARCHAR(255), 
	parent_run_id VARCHAR(255), 
	root_run_id VARCHAR(255), 
	open_key VARCHAR(255), 
	parent_initiated_event_id INTEGER, 
	parent_close_policy VARCHAR(32), 
	state TEXT, 
	checkpoint_event_id INTEGER DEFAULT '0' NOT NULL, 
	PRIMARY KEY (run_id), 
	CONSTRAINT runs_open_key UNIQUE (open_key, namespace), 
	CONSTRAINT runs_request_id UNIQUE (request_id, namespace)
);
INSERT INTO "runs" VALUES('019b76da-a800-7534-a375-c0c5d2d1eed9','default','done','old.done','default','completed',1767225600000010,'019b76da-a800-7534-a375-c0c5d2d1eed9','019b76da-a800-7534-a375-c0c5d2d1eed9',1767225600000014,NULL,0,NULL,NULL,NULL,NULL,NULL,NULL,'019b76da-a800-7534-a375-c0c5d2d1eed9',NULL,NULL,NULL,NULL,0);
INSERT INTO "runs" VALUES('019b76da-a800-7534-a375-c0c682ce8698','default','order','old.order','default','running',1767225600000015,'019b76da-a800-7534-a375-c0c682ce8698','019b76da-a800-7534-a375-c0c682ce8698',NULL,NULL,0,NULL,NULL,NULL,NULL,NULL,NULL,'019b76da-a800-7534-a375-c0c682ce8698','order',NULL,NULL,NULL,0);
INSERT INTO "runs" VALUES('019b76da-a800-7534-a375-c0c6b1e7a5a2','default','shipping','old.shipping','default','running',1767225600000022,'019b76da-a800-7534-a375-c0c6b1e7a5a2','019b76da-a800-7534-a375-c0c6b1e7a5a2',NULL,NULL,0,1767225601000026,NULL,NULL,NULL,NULL,NULL,'019b76da-a800-7534-a375-c0c6b1e7a5a2','shipping',NULL,NULL,NULL,0);
CREATE TABLE workers (
	worker_id VARCHAR(255) NOT NULL, 
	namespace VARCHAR(255) NOT NULL, 
	host VARCHAR(255) NOT NULL, 
	pid BIGINT NOT NULL, 
	process_started_at VARCHAR(255) NOT NULL, 
	task_queue VARCHAR(255) NOT NULL, 
	started_at BIGINT NOT NULL, 
	fence BIGINT NOT NULL, 
	lease_expires_at BIGINT NOT NULL, 
	PRIMARY KEY (worker_id)
)
 WITHOUT ROWID

;
INSERT INTO "workers" VALUES('gone','default','elsewhere',1,'','default',1,1,1);
CREATE INDEX replies_created_at ON replies (created_at);
CREATE INDEX runs_due ON runs (owner, is_active, wake_at, run_id) WHERE open_key IS NOT NULL;
CREATE INDEX runs_parent ON runs (parent_run_id, open_key) WHERE parent_run_id IS NOT NULL;
CREATE INDEX runs_started_at ON runs (namespace, started_at);
CREATE INDEX runs_workflow_id ON runs (workflow_id, namespace, started_at);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('inbox',1);
COMMIT;
