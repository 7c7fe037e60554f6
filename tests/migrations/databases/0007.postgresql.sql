-- The tables of a server's database at revision 0007, as a release made them.
CREATE TABLE durable_schema (
    version_num VARCHAR(32) NOT NULL,
    CONSTRAINT durable_schema_pkc PRIMARY KEY (version_num)
);
CREATE TABLE durable_attempts (
    run_id VARCHAR(255) COLLATE "C" NOT NULL,
    scheduled_event_id INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    activity_type VARCHAR(255) COLLATE "C" NOT NULL,
    state VARCHAR(32) COLLATE "C" NOT NULL,
    due_at BIGINT NOT NULL,
    started_at BIGINT,
    closed_at BIGINT,
    failure TEXT,
    worker_id VARCHAR(255) COLLATE "C",
    PRIMARY KEY (run_id, scheduled_event_id, attempt)
);
CREATE TABLE durable_history (
    run_id VARCHAR(255) COLLATE "C" NOT NULL,
    event_id INTEGER NOT NULL,
    task_number INTEGER NOT NULL,
    type VARCHAR(255) COLLATE "C" NOT NULL,
    time BIGINT NOT NULL,
    data TEXT NOT NULL,
    flags BIGINT NOT NULL,
    PRIMARY KEY (run_id, event_id)
);
CREATE TABLE durable_inbox (
    sequence BIGSERIAL NOT NULL,
    run_id VARCHAR(255) COLLATE "C" NOT NULL,
    kind VARCHAR(255) COLLATE "C" NOT NULL,
    request_id VARCHAR(255) COLLATE "C" NOT NULL,
    data TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (sequence),
    CONSTRAINT durable_inbox_request_id UNIQUE (run_id, request_id)
);
CREATE TABLE durable_replies (
    run_id VARCHAR(255) COLLATE "C" NOT NULL,
    request_id VARCHAR(255) COLLATE "C" NOT NULL,
    data TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (run_id, request_id)
);
CREATE INDEX durable_replies_created_at ON durable_replies (created_at);
CREATE TABLE durable_runs (
    run_id VARCHAR(255) COLLATE "C" NOT NULL,
    namespace VARCHAR(255) COLLATE "C" NOT NULL,
    workflow_id VARCHAR(255) COLLATE "C" NOT NULL,
    workflow_type VARCHAR(255) COLLATE "C" NOT NULL,
    task_queue VARCHAR(255) COLLATE "C" NOT NULL,
    status VARCHAR(32) COLLATE "C" NOT NULL,
    started_at BIGINT NOT NULL,
    first_run_id VARCHAR(255) COLLATE "C" NOT NULL,
    request_id VARCHAR(255) COLLATE "C" NOT NULL,
    closed_at BIGINT,
    owner VARCHAR(255) COLLATE "C",
    wake_at BIGINT,
    stuck TEXT,
    version VARCHAR(255) COLLATE "C",
    continued_from_run_id VARCHAR(255) COLLATE "C",
    parent_workflow_id VARCHAR(255) COLLATE "C",
    parent_run_id VARCHAR(255) COLLATE "C",
    root_run_id VARCHAR(255) COLLATE "C",
    open_key VARCHAR(255) COLLATE "C",
    parent_initiated_event_id INTEGER,
    parent_close_policy VARCHAR(32) COLLATE "C",
    state TEXT,
    checkpoint_event_id INTEGER DEFAULT '0' NOT NULL,
    epoch INTEGER DEFAULT '0' NOT NULL,
    PRIMARY KEY (run_id),
    CONSTRAINT durable_runs_open_key UNIQUE (open_key, namespace),
    CONSTRAINT durable_runs_request_id UNIQUE (request_id, namespace)
);
CREATE INDEX durable_runs_due ON durable_runs (namespace, task_queue, wake_at, run_id, workflow_type) WHERE owner IS NULL AND wake_at IS NOT NULL;
CREATE INDEX durable_runs_owner ON durable_runs (owner, wake_at, run_id) WHERE owner IS NOT NULL;
CREATE INDEX durable_runs_parent ON durable_runs (parent_run_id, open_key) WHERE parent_run_id IS NOT NULL;
CREATE INDEX durable_runs_started_at ON durable_runs ((namespace || ''), started_at);
CREATE INDEX durable_runs_stuck ON durable_runs (namespace, task_queue, run_id) WHERE stuck IS NOT NULL AND open_key IS NOT NULL;
CREATE INDEX durable_runs_workflow_id ON durable_runs (workflow_id, namespace, started_at);
CREATE TABLE durable_workers (
    worker_id VARCHAR(255) COLLATE "C" NOT NULL,
    namespace VARCHAR(255) COLLATE "C" NOT NULL,
    host VARCHAR(255) COLLATE "C" NOT NULL,
    pid BIGINT NOT NULL,
    process_started_at VARCHAR(255) COLLATE "C" NOT NULL,
    task_queue VARCHAR(255) COLLATE "C" NOT NULL,
    started_at BIGINT NOT NULL,
    lease_expires_at BIGINT NOT NULL,
    status VARCHAR(32) COLLATE "C" DEFAULT 'running' NOT NULL,
    PRIMARY KEY (worker_id)
);
CREATE UNLOGGED TABLE durable_incarnation (
    id INTEGER NOT NULL,
    life VARCHAR(32) COLLATE "C" NOT NULL,
    PRIMARY KEY (id)
);
INSERT INTO durable_schema VALUES ('0007');
