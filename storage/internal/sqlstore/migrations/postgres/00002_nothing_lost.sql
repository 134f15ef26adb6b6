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

-- +goose Down
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
DROP INDEX evaluations_expiry;
ALTER TABLE evaluations DROP COLUMN dispatched_at;
ALTER TABLE evaluations DROP COLUMN lost_alone;
ALTER TABLE evaluations DROP COLUMN refused;
ALTER TABLE evaluations DROP COLUMN turn;
ALTER TABLE evaluations DROP COLUMN expires_at;
ALTER TABLE evaluations DROP COLUMN client;
