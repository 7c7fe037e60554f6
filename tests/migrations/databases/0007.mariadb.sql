-- The tables of a server's database at revision 0007, as a release made them.
CREATE TABLE durable_schema (
    version_num VARCHAR(32) NOT NULL,
    CONSTRAINT durable_schema_pkc PRIMARY KEY (version_num)
)ENGINE=InnoDB;
CREATE TABLE durable_attempts (
    run_id VARCHAR(255) COLLATE utf8mb4_nopad_bin NOT NULL,
    scheduled_event_id INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    activity_type VARCHAR(255) COLLATE utf8mb4_nopad_bin NOT NULL,
    state VARCHAR(32) COLLATE utf8mb4_nopad_bin NOT NULL,
    due_at BIGINT NOT NULL,
    started_at BIGINT,
    closed_at BIGINT,
    failure TEXT(4294967295),
    worker_id VARCHAR(255) COLLATE utf8mb4_nopad_bin,
    PRIMARY KEY (run_id, scheduled_event_id, attempt)
)ENGINE=InnoDB ROW_FORMAT=DYNAMIC CHARSET=utf8mb4 COLLATE utf8mb4_nopad_bin;
CREATE TABLE durable_history (
    run_id VARCHAR(255) COLLATE utf8mb4_nopad_bin NOT NULL,
    event_id INTEGER NOT NULL,
    task_number INTEGER NOT NULL,
    type VARCHAR(255) COLLATE utf8mb4_nopad_bin NOT NULL,
    time BIGINT NOT NULL,
    data TEXT(4294967295) NOT NULL,
    flags BIGINT NOT NULL,
    PRIMARY KEY (run_id, event_id)
)ENGINE=InnoDB ROW_FORMAT=DYNAMIC CHARSET=utf8mb4 COLLATE utf8mb4_nopad_bin;
CREATE TABLE durable_inbox (
    sequence BIGINT NOT NULL AUTO_INCREMENT,
    run_id VARCHAR(255) COLLATE utf8mb4_nopad_bin NOT NULL,
    kind VARCHAR(255) COLLATE utf8mb4_nopad_bin NOT NULL,
    request_id VARCHAR(255) COLLATE utf8mb4_nopad_bin NOT NULL,
    data TEXT(4294967295) NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (sequence),
    CONSTRAINT durable_inbox_request_id UNIQUE (run_id, request_id)
)ENGINE=InnoDB ROW_FORMAT=DYNAMIC CHARSET=utf8mb4 COLLATE utf8mb4_nopad_bin;
CREATE TABLE durable_replies (
    run_id VARCHAR(255) COLLATE utf8mb4_nopad_bin NOT NULL,
    request_id VARCHAR(255) COLLATE utf8mb4_nopad_bin NOT NULL,
    data TEXT(4294967295) NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (run_id, request_id)
)ENGINE=InnoDB ROW_FORMAT=DYNAMIC CHARSET=utf8mb4 COLLATE utf8mb4_nopad_bin;
ALTER TABLE durable_replies
    ADD INDEX durable_replies_created_at (created_at);
CREATE TABLE durable_runs (
    run_id VARCHAR(255) COLLATE utf8mb4_nopad_bin NOT NULL,
    namespace VARBINARY(255) NOT NULL,
    workflow_id VARCHAR(255) COLLATE utf8mb4_nopad_bin NOT NULL,
    workflow_type VARCHAR(255) COLLATE utf8mb4_nopad_bin NOT NULL,
    task_queue VARBINARY(255) NOT NULL,
    status VARCHAR(32) COLLATE utf8mb4_nopad_bin NOT NULL,
    started_at BIGINT NOT NULL,
    first_run_id VARCHAR(255) COLLATE utf8mb4_nopad_bin NOT NULL,
    request_id VARCHAR(255) COLLATE utf8mb4_nopad_bin NOT NULL,
    closed_at BIGINT,
    owner VARCHAR(255) COLLATE utf8mb4_nopad_bin,
    wake_at BIGINT,
    stuck TEXT(4294967295),
    version VARCHAR(255) COLLATE utf8mb4_nopad_bin,
    continued_from_run_id VARCHAR(255) COLLATE utf8mb4_nopad_bin,
    parent_workflow_id VARCHAR(255) COLLATE utf8mb4_nopad_bin,
    parent_run_id VARCHAR(255) COLLATE utf8mb4_nopad_bin,
    root_run_id VARCHAR(255) COLLATE utf8mb4_nopad_bin,
    open_key VARCHAR(255) COLLATE utf8mb4_nopad_bin,
    parent_initiated_event_id INTEGER,
    parent_close_policy VARCHAR(32) COLLATE utf8mb4_nopad_bin,
    state TEXT(4294967295),
    checkpoint_event_id INTEGER NOT NULL DEFAULT '0',
    epoch INTEGER NOT NULL DEFAULT '0',
    PRIMARY KEY (run_id),
    CONSTRAINT durable_runs_open_key UNIQUE (open_key, namespace),
    CONSTRAINT durable_runs_request_id UNIQUE (request_id, namespace)
)ENGINE=InnoDB ROW_FORMAT=DYNAMIC CHARSET=utf8mb4 COLLATE utf8mb4_nopad_bin;
ALTER TABLE durable_runs
    ADD INDEX durable_runs_due (namespace, task_queue, wake_at, run_id, workflow_type),
    ADD INDEX durable_runs_owner (owner, wake_at, run_id),
    ADD INDEX durable_runs_parent (parent_run_id, open_key),
    ADD INDEX durable_runs_started_at (namespace, started_at),
    ADD INDEX durable_runs_stuck (stuck(1)),
    ADD INDEX durable_runs_wake_at (wake_at),
    ADD INDEX durable_runs_workflow_id (workflow_id, namespace, started_at);
CREATE TABLE durable_workers (
    worker_id VARCHAR(255) COLLATE utf8mb4_nopad_bin NOT NULL,
    namespace VARBINARY(255) NOT NULL,
    host VARCHAR(255) COLLATE utf8mb4_nopad_bin NOT NULL,
    pid BIGINT NOT NULL,
    process_started_at VARCHAR(255) COLLATE utf8mb4_nopad_bin NOT NULL,
    task_queue VARBINARY(255) NOT NULL,
    started_at BIGINT NOT NULL,
    lease_expires_at BIGINT NOT NULL,
    status VARCHAR(32) COLLATE utf8mb4_nopad_bin NOT NULL DEFAULT 'running',
    PRIMARY KEY (worker_id)
)ENGINE=InnoDB ROW_FORMAT=DYNAMIC CHARSET=utf8mb4 COLLATE utf8mb4_nopad_bin;
CREATE TABLE durable_changes (
    session_id VARCHAR(32) COLLATE utf8mb4_nopad_bin NOT NULL,
    version BIGINT NOT NULL,
    changed_at BIGINT NOT NULL,
    PRIMARY KEY (session_id)
)ENGINE=InnoDB ROW_FORMAT=DYNAMIC CHARSET=utf8mb4 COLLATE utf8mb4_nopad_bin;
INSERT INTO durable_schema VALUES ('0007');
