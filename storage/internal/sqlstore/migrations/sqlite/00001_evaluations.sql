-- +goose Up
-- Times are microseconds since 1970, UTC. Texts that are absent are empty.

CREATE TABLE evaluations (
    project_id          TEXT    NOT NULL,
    id                  TEXT    NOT NULL,
    batch_id            TEXT    NOT NULL,
    retry_of            TEXT    NOT NULL,
    language            TEXT    NOT NULL,
    priority            TEXT    NOT NULL,
    run_at              INTEGER,
    created_at          INTEGER NOT NULL,
    trace               TEXT    NOT NULL,
    status              TEXT    NOT NULL,
    verdict             TEXT    NOT NULL,
    cause               TEXT    NOT NULL,
    failure_kind        TEXT    NOT NULL,
    failure_message     TEXT    NOT NULL,
    reason              TEXT    NOT NULL,
    attempt             INTEGER NOT NULL,
    tries               INTEGER NOT NULL,
    lost                INTEGER NOT NULL,
    dispatch_seq        INTEGER NOT NULL,
    event_seq           INTEGER NOT NULL,
    worker              TEXT    NOT NULL,
    executor            TEXT    NOT NULL,
    updated_at          INTEGER NOT NULL,
    started_at          INTEGER,
    finished_at         INTEGER,
    next_dispatch_at    INTEGER,
    lease_until         INTEGER,
    cancel_requested_at INTEGER,
    spec_summary        TEXT    NOT NULL, -- the spec without its program, as JSON: what lists show
    result_summary      TEXT,             -- the result without its streams, as JSON: what lists show
    result              TEXT,             -- the whole result, as JSON
    PRIMARY KEY (project_id, id)
);
CREATE INDEX evaluations_newest ON evaluations (project_id, created_at, id);
CREATE INDEX evaluations_status ON evaluations (project_id, status, created_at, id);
CREATE INDEX evaluations_verdict ON evaluations (project_id, verdict, created_at, id) WHERE verdict <> '';
CREATE INDEX evaluations_batch ON evaluations (project_id, batch_id, created_at, id) WHERE batch_id <> '';
CREATE INDEX evaluations_due ON evaluations (next_dispatch_at) WHERE status = 'queued';
CREATE INDEX evaluations_leases ON evaluations (lease_until) WHERE status = 'running';

-- The whole spec, as JSON. It never changes, so changes of state do not rewrite it.
CREATE TABLE programs (
    project_id    TEXT NOT NULL,
    evaluation_id TEXT NOT NULL,
    spec          TEXT NOT NULL,
    PRIMARY KEY (project_id, evaluation_id)
);

CREATE TABLE tags (
    project_id    TEXT    NOT NULL,
    tag           TEXT    NOT NULL,
    created_at    INTEGER NOT NULL,
    evaluation_id TEXT    NOT NULL,
    PRIMARY KEY (project_id, tag, created_at, evaluation_id)
) WITHOUT ROWID;

CREATE TABLE attempts (
    project_id        TEXT    NOT NULL,
    evaluation_id     TEXT    NOT NULL,
    number            INTEGER NOT NULL,
    worker            TEXT    NOT NULL,
    executor          TEXT    NOT NULL,
    started_at        INTEGER NOT NULL,
    finished_at       INTEGER,
    outcome           TEXT    NOT NULL,
    failure_kind      TEXT    NOT NULL,
    failure_message   TEXT    NOT NULL,
    wall_ms           REAL    NOT NULL,
    cpu_ms            REAL    NOT NULL,
    memory_peak_bytes INTEGER NOT NULL,
    PRIMARY KEY (project_id, evaluation_id, number)
) WITHOUT ROWID;

-- AUTOINCREMENT: a cursor is never given twice, even after rows are deleted.
CREATE TABLE evaluation_events (
    cursor        INTEGER PRIMARY KEY AUTOINCREMENT,
    project_id    TEXT    NOT NULL,
    evaluation_id TEXT    NOT NULL,
    seq           INTEGER NOT NULL,
    type          TEXT    NOT NULL,
    status        TEXT    NOT NULL,
    verdict       TEXT    NOT NULL,
    cause         TEXT    NOT NULL,
    attempt       INTEGER NOT NULL,
    at            INTEGER NOT NULL,
    worker        TEXT    NOT NULL,
    message       TEXT    NOT NULL
);
CREATE UNIQUE INDEX evaluation_events_seq ON evaluation_events (project_id, evaluation_id, seq);
CREATE INDEX evaluation_events_feed ON evaluation_events (project_id, cursor);

CREATE TABLE dead_letters (
    project_id      TEXT    NOT NULL,
    evaluation_id   TEXT    NOT NULL,
    language        TEXT    NOT NULL,
    failure_kind    TEXT    NOT NULL,
    failure_message TEXT    NOT NULL,
    attempts        INTEGER NOT NULL,
    failed_at       INTEGER NOT NULL,
    PRIMARY KEY (project_id, evaluation_id)
);
CREATE INDEX dead_letters_newest ON dead_letters (project_id, failed_at, evaluation_id);

CREATE TABLE idempotency_keys (
    project_id     TEXT    NOT NULL,
    key            TEXT    NOT NULL,
    fingerprint    TEXT    NOT NULL,
    evaluation_ids TEXT    NOT NULL, -- JSON, in the order of the submission
    created_at     INTEGER NOT NULL,
    PRIMARY KEY (project_id, key)
);
CREATE INDEX idempotency_keys_age ON idempotency_keys (created_at);

-- What has ended never changes, and history is only added to, whoever asks.

-- +goose StatementBegin
CREATE TRIGGER evaluations_terminal BEFORE UPDATE ON evaluations
WHEN OLD.status IN ('completed', 'failed', 'cancelled')
BEGIN
    SELECT RAISE(ABORT, 'a terminal evaluation never changes');
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER programs_constant BEFORE UPDATE ON programs
BEGIN
    SELECT RAISE(ABORT, 'a program never changes');
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER evaluation_events_constant BEFORE UPDATE ON evaluation_events
BEGIN
    SELECT RAISE(ABORT, 'an event never changes');
END;
-- +goose StatementEnd

-- +goose Down
DROP TABLE idempotency_keys;
DROP TABLE dead_letters;
DROP TABLE evaluation_events;
DROP TABLE attempts;
DROP TABLE tags;
DROP TABLE programs;
DROP TABLE evaluations;
