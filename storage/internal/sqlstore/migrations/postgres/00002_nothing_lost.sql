-- +goose Up
ALTER TABLE evaluations ADD COLUMN client TEXT COLLATE "C" NOT NULL DEFAULT '';
ALTER TABLE evaluations ADD COLUMN expires_at BIGINT;
ALTER TABLE evaluations ADD COLUMN turn BIGINT NOT NULL DEFAULT 0;
ALTER TABLE evaluations ADD COLUMN refused BIGINT NOT NULL DEFAULT 0;
ALTER TABLE evaluations ADD COLUMN lost_alone BIGINT NOT NULL DEFAULT 0;
ALTER TABLE evaluations ADD COLUMN dispatched_at BIGINT;
CREATE INDEX evaluations_retries ON evaluations (project_id, retry_of) WHERE retry_of <> '';
CREATE INDEX evaluations_expiry ON evaluations (expires_at) WHERE status = 'queued' AND expires_at IS NOT NULL;

-- Who has how much in hand.
CREATE INDEX evaluations_clients ON evaluations (project_id, client, status) WHERE status IN ('queued', 'running');
CREATE INDEX evaluations_client ON evaluations (project_id, client, created_at, id) WHERE client <> '';

-- Each client has idempotency keys of its own.
ALTER TABLE idempotency_keys ADD COLUMN client TEXT NOT NULL DEFAULT '';
ALTER TABLE idempotency_keys DROP CONSTRAINT idempotency_keys_pkey, ADD PRIMARY KEY (project_id, client, key);

-- Who waits for its turn, and who waits in the queue: see fair.go of package eval.
CREATE INDEX evaluations_line ON evaluations (priority, turn, id) WHERE status = 'queued' AND next_dispatch_at IS NULL;
CREATE INDEX evaluations_flows ON evaluations (priority, project_id, client, turn, id) WHERE status = 'queued' AND next_dispatch_at IS NULL;
CREATE INDEX evaluations_dispatched ON evaluations (priority, turn) WHERE status = 'queued' AND dispatched_at IS NOT NULL;
DROP INDEX evaluations_due;
CREATE INDEX evaluations_due ON evaluations (next_dispatch_at, id) WHERE status = 'queued' AND next_dispatch_at IS NOT NULL;

ALTER TABLE attempts ADD COLUMN alone BOOLEAN NOT NULL DEFAULT FALSE;
ALTER TABLE attempts ADD COLUMN counted BOOLEAN NOT NULL DEFAULT FALSE;
ALTER TABLE attempts ADD COLUMN next_try_at BIGINT;

-- The outbox: one row for each evaluation that has ended and whose client wants to hear of it.
CREATE TABLE callbacks (
    project_id    TEXT NOT NULL,
    evaluation_id TEXT COLLATE "C" NOT NULL,
    url           TEXT NOT NULL,
    host          TEXT NOT NULL,
    status        TEXT NOT NULL,
    tries         BIGINT NOT NULL,
    max_tries     BIGINT NOT NULL,
    deliverer     TEXT NOT NULL,
    next_at       BIGINT,
    reason        TEXT NOT NULL,
    message       TEXT NOT NULL,
    http_status   BIGINT NOT NULL,
    created_at    BIGINT NOT NULL,
    ended_at      BIGINT,
    PRIMARY KEY (project_id, evaluation_id)
);
CREATE INDEX callbacks_due ON callbacks (next_at) WHERE status = 'pending';
CREATE INDEX callbacks_status ON callbacks (project_id, status, created_at, evaluation_id);
CREATE INDEX callbacks_newest ON callbacks (project_id, created_at, evaluation_id);

-- What is needed to remove things by their age. Retention looks for what ended long ago.
CREATE INDEX evaluations_ended ON evaluations (status, finished_at) WHERE finished_at IS NOT NULL;

-- Blobs are named by their content and shared by all projects. look_at is when to see whether one is still referred to; a
-- blob that is, and was seen to be, has none.
CREATE TABLE blobs (
    digest  TEXT NOT NULL PRIMARY KEY,
    bytes   BIGINT NOT NULL, -- 0: not known
    look_at BIGINT
);
CREATE INDEX blobs_look ON blobs (look_at) WHERE look_at IS NOT NULL;

CREATE TABLE blob_refs (
    digest        TEXT NOT NULL,
    project_id    TEXT NOT NULL,
    evaluation_id TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (digest, project_id, evaluation_id)
);
CREATE INDEX blob_refs_evaluation ON blob_refs (project_id, evaluation_id);
INSERT INTO blob_refs (digest, project_id, evaluation_id)
    SELECT DISTINCT m.found[1], e.project_id, e.id FROM evaluations e, regexp_matches(e.result, '"blob":"([0-9a-f]{64})"', 'g') AS m (found)
    WHERE e.result LIKE '%"blob":"%';
INSERT INTO blobs (digest, bytes, look_at) SELECT DISTINCT digest, 0, CAST(NULL AS BIGINT) FROM blob_refs;

-- +goose Down
DROP TABLE blob_refs;
DROP TABLE blobs;
DROP INDEX evaluations_ended;
DROP TABLE callbacks;
DROP INDEX evaluations_retries;
ALTER TABLE attempts DROP COLUMN next_try_at;
ALTER TABLE attempts DROP COLUMN counted;
ALTER TABLE attempts DROP COLUMN alone;
DELETE FROM idempotency_keys WHERE client <> '';
ALTER TABLE idempotency_keys DROP CONSTRAINT idempotency_keys_pkey, ADD PRIMARY KEY (project_id, key);
ALTER TABLE idempotency_keys DROP COLUMN client;
DROP INDEX evaluations_client;
DROP INDEX evaluations_clients;

DROP INDEX evaluations_due;
CREATE INDEX evaluations_due ON evaluations (next_dispatch_at) WHERE status = 'queued';
DROP INDEX evaluations_dispatched;
DROP INDEX evaluations_flows;
DROP INDEX evaluations_line;
DROP INDEX evaluations_expiry;
ALTER TABLE evaluations DROP COLUMN dispatched_at;
ALTER TABLE evaluations DROP COLUMN lost_alone;
ALTER TABLE evaluations DROP COLUMN refused;
ALTER TABLE evaluations DROP COLUMN turn;
ALTER TABLE evaluations DROP COLUMN expires_at;
ALTER TABLE evaluations DROP COLUMN client;
