-- +goose Up
-- Times are microseconds since 1970, UTC. Texts that are absent are empty.

CREATE TABLE evaluations (
    project_id          TEXT    NOT NULL,
    id                  TEXT COLLATE "C"    NOT NULL,
    batch_id            TEXT    NOT NULL,
    retry_of            TEXT    NOT NULL,
    language            TEXT    NOT NULL,
    priority            TEXT    NOT NULL,
    run_at              BIGINT,
    created_at          BIGINT NOT NULL,
    trace               TEXT    NOT NULL,
    status              TEXT    NOT NULL,
    verdict             TEXT    NOT NULL,
    cause               TEXT    NOT NULL,
    failure_kind        TEXT    NOT NULL,
    failure_message     TEXT    NOT NULL,
    reason              TEXT    NOT NULL,
    attempt             BIGINT NOT NULL,
    tries               BIGINT NOT NULL,
    lost                BIGINT NOT NULL,
    dispatch_seq        BIGINT NOT NULL,
    event_seq           BIGINT NOT NULL,
    worker              TEXT    NOT NULL,
    executor            TEXT    NOT NULL,
    updated_at          BIGINT NOT NULL,
    started_at          BIGINT,
    finished_at         BIGINT,
    next_dispatch_at    BIGINT,
    lease_until         BIGINT,
    cancel_requested_at BIGINT,
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
    evaluation_id TEXT COLLATE "C" NOT NULL,
    spec          TEXT NOT NULL,
    PRIMARY KEY (project_id, evaluation_id)
);

CREATE TABLE tags (
    project_id    TEXT    NOT NULL,
    tag           TEXT    NOT NULL,
    created_at    BIGINT NOT NULL,
    evaluation_id TEXT COLLATE "C"    NOT NULL,
    PRIMARY KEY (project_id, tag, created_at, evaluation_id)
);

CREATE TABLE attempts (
    project_id        TEXT    NOT NULL,
    evaluation_id     TEXT COLLATE "C"    NOT NULL,
    number            BIGINT NOT NULL,
    worker            TEXT    NOT NULL,
    executor          TEXT    NOT NULL,
    started_at        BIGINT NOT NULL,
    finished_at       BIGINT,
    outcome           TEXT    NOT NULL,
    failure_kind      TEXT    NOT NULL,
    failure_message   TEXT    NOT NULL,
    wall_ms           DOUBLE PRECISION    NOT NULL,
    cpu_ms            DOUBLE PRECISION    NOT NULL,
    memory_peak_bytes BIGINT NOT NULL,
    PRIMARY KEY (project_id, evaluation_id, number)
);

-- The cursor is the writing transaction's id times 4096, plus a number within it. A reader takes those of
-- transactions below the oldest that still runs, so none can turn up behind it later.
CREATE TABLE evaluation_events (
    cursor        BIGINT PRIMARY KEY,
    project_id    TEXT    NOT NULL,
    evaluation_id TEXT COLLATE "C"    NOT NULL,
    seq           BIGINT NOT NULL,
    type          TEXT    NOT NULL,
    status        TEXT    NOT NULL,
    verdict       TEXT    NOT NULL,
    cause         TEXT    NOT NULL,
    attempt       BIGINT NOT NULL,
    at            BIGINT NOT NULL,
    worker        TEXT    NOT NULL,
    message       TEXT    NOT NULL
);
CREATE UNIQUE INDEX evaluation_events_seq ON evaluation_events (project_id, evaluation_id, seq);
CREATE INDEX evaluation_events_feed ON evaluation_events (project_id, cursor);

CREATE TABLE dead_letters (
    project_id      TEXT    NOT NULL,
    evaluation_id   TEXT COLLATE "C"    NOT NULL,
    language        TEXT    NOT NULL,
    failure_kind    TEXT    NOT NULL,
    failure_message TEXT    NOT NULL,
    attempts        BIGINT NOT NULL,
    failed_at       BIGINT NOT NULL,
    PRIMARY KEY (project_id, evaluation_id)
);
CREATE INDEX dead_letters_newest ON dead_letters (project_id, failed_at, evaluation_id);

CREATE TABLE idempotency_keys (
    project_id     TEXT    NOT NULL,
    key            TEXT    NOT NULL,
    fingerprint    TEXT    NOT NULL,
    evaluation_ids TEXT    NOT NULL, -- JSON, in the order of the submission
    created_at     BIGINT NOT NULL,
    PRIMARY KEY (project_id, key)
);
CREATE INDEX idempotency_keys_age ON idempotency_keys (created_at);

-- What has ended never changes, and history is only added to, whoever asks.

-- +goose StatementBegin
CREATE FUNCTION crucible_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '%', TG_ARGV[0] USING ERRCODE = 'integrity_constraint_violation';
END;
$$;
-- +goose StatementEnd

CREATE TRIGGER evaluations_terminal BEFORE UPDATE ON evaluations
FOR EACH ROW WHEN (OLD.status IN ('completed', 'failed', 'cancelled'))
EXECUTE FUNCTION crucible_refuse('a terminal evaluation never changes');

CREATE TRIGGER programs_constant BEFORE UPDATE ON programs
FOR EACH ROW EXECUTE FUNCTION crucible_refuse('a program never changes');

CREATE TRIGGER evaluation_events_constant BEFORE UPDATE ON evaluation_events
FOR EACH ROW EXECUTE FUNCTION crucible_refuse('an event never changes');

-- +goose Down
DROP TABLE idempotency_keys;
DROP TABLE dead_letters;
DROP TABLE evaluation_events;
DROP TABLE attempts;
DROP TABLE tags;
DROP TABLE programs;
DROP TABLE evaluations;
DROP FUNCTION crucible_refuse();
