package task

import (
	"context"
	"errors"

	"github.com/redis/go-redis/v9"
)

// epochKey holds the run id of the Redis process that the queue was last known to be whole in.
const epochKey = "crucible:epoch"

// Lost says whether queued tasks may be missing: the Redis was emptied, restarted, or another one took over since
// the last [Redis.Found]. A restart that kept its data is reported too; enqueueing everything again is harmless.
// KindUnavailable when Redis does not answer.
func (r *Redis) Lost(ctx context.Context) (bool, error) {
	if err := r.usable(); err != nil {
		return false, err
	}
	seen, err := r.client.Get(ctx, epochKey).Result()
	switch {
	case errors.Is(err, redis.Nil):
		return true, nil
	case err != nil:
		return false, unavailable(err)
	}
	run, err := r.runID(ctx)
	if err != nil {
		return false, err
	}
	return seen != run, nil
}

// Found records that everything which must be queued is going to be: [Redis.Lost] is false until the next loss. It
// also puts the queues back on asynq's list of them, which a flush empties and only a restarted client would fill.
func (r *Redis) Found(ctx context.Context) error {
	run, err := r.runID(ctx)
	if err != nil {
		return err
	}
	if err := r.Heal(ctx); err != nil {
		return err
	}
	return unavailable(r.client.Set(ctx, epochKey, run, 0).Err())
}

// Heal puts the queues back on asynq's list of them.
func (r *Redis) Heal(ctx context.Context) error {
	var names []any
	for _, q := range Queues() {
		names = append(names, q)
	}
	return unavailable(r.client.SAdd(ctx, "asynq:queues", names...).Err())
}

// runID names the Redis process. Servers that do not tell, such as the embedded one, have an empty one.
func (r *Redis) runID(ctx context.Context) (string, error) {
	server, err := r.info(ctx, "server")
	if err == nil {
		return server["run_id"], nil
	}
	var answer redis.Error
	if errors.As(err, &answer) {
		return "", nil
	}
	return "", err
}
