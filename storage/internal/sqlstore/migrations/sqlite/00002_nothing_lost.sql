-- +goose Up
ALTER TABLE evaluations ADD COLUMN client TEXT NOT NULL DEFAULT '';
ALTER TABLE evaluations ADD COLUMN expires_at INTEGER;
ALTER TABLE evaluations ADD COLUMN turn INTEGER NOT NULL DEFAULT 0;
ALTER TABLE evaluations ADD COLUMN lost_alone INTEGER NOT NULL DEFAULT 0;
ALTER TABLE evaluations ADD COLUMN dispatched_at INTEGER;
CREATE INDEX evaluations_expiry ON evaluations (expires_at) WHERE status = 'queued' AND expires_at IS NOT NULL;

ALTER TABLE attempts ADD COLUMN alone INTEGER NOT NULL DEFAULT 0;
ALTER TABLE attempts ADD COLUMN counted INTEGER NOT NULL DEFAULT 0;
ALTER TABLE attempts ADD COLUMN next_try_at INTEGER;

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
