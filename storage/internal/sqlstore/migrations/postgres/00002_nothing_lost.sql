-- +goose Up
ALTER TABLE evaluations ADD COLUMN client TEXT NOT NULL DEFAULT '';
ALTER TABLE evaluations ADD COLUMN expires_at BIGINT;
ALTER TABLE evaluations ADD COLUMN turn BIGINT NOT NULL DEFAULT 0;
ALTER TABLE evaluations ADD COLUMN lost_alone BIGINT NOT NULL DEFAULT 0;
ALTER TABLE evaluations ADD COLUMN dispatched_at BIGINT;
CREATE INDEX evaluations_expiry ON evaluations (expires_at) WHERE status = 'queued' AND expires_at IS NOT NULL;

ALTER TABLE attempts ADD COLUMN alone BOOLEAN NOT NULL DEFAULT FALSE;
ALTER TABLE attempts ADD COLUMN counted BOOLEAN NOT NULL DEFAULT FALSE;
ALTER TABLE attempts ADD COLUMN next_try_at BIGINT;

-- +goose Down
ALTER TABLE attempts DROP COLUMN next_try_at;
ALTER TABLE attempts DROP COLUMN counted;
ALTER TABLE attempts DROP COLUMN alone;
DROP INDEX evaluations_expiry;
ALTER TABLE evaluations DROP COLUMN dispatched_at;
ALTER TABLE evaluations DROP COLUMN lost_alone;
ALTER TABLE evaluations DROP COLUMN turn;
ALTER TABLE evaluations DROP COLUMN expires_at;
ALTER TABLE evaluations DROP COLUMN client;
