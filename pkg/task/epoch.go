package task

import (
	"context"
	"errors"
	"time"

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

// Heal puts the queues back on asynq's list of them, and removes what would hinder asynq or its tools: entries whose
// task is gone, as after an eviction, and tasks in a worker's hand that asynq has not taken back two minutes after it
// should have, because one that it cannot read stops it from doing that for all. The evaluations behind them are in
// the store, and come again from there. It looks at a bounded number of entries each time.
func (r *Redis) Heal(ctx context.Context) error {
	var names []any
	for _, q := range Queues() {
		names = append(names, q)
	}
	if err := r.client.SAdd(ctx, "asynq:queues", names...).Err(); err != nil {
		return unavailable(err)
	}
	for _, q := range Queues() {
		removed, err := sweep.Run(ctx, r.client, []string{queueKey(q, "")}, time.Now().Add(-2*time.Minute).Unix()).Int()
		if err != nil {
			return unavailable(err)
		}
		if removed > 0 {
			r.log.Warn("queue: broken entries removed; their evaluations are queued again from the store", "queue", q, "entries", removed)
		}
	}
	return nil
}

// sweep does the work of Heal for one queue, whose keys begin with KEYS[1].
var sweep = redis.NewScript(`
local prefix, late, removed = KEYS[1], tonumber(ARGV[1]), 0
local function broken(id) return redis.call('HEXISTS', prefix .. 't:' .. id, 'msg') == 0 end
for _, id in ipairs(redis.call('LRANGE', prefix .. 'pending', -200, -1)) do
	if broken(id) then
		redis.call('LREM', prefix .. 'pending', 1, id)
		redis.call('DEL', prefix .. 't:' .. id)
		removed = removed + 1
	end
end
for _, id in ipairs(redis.call('LRANGE', prefix .. 'active', -500, -1)) do
	local lease = redis.call('ZSCORE', prefix .. 'lease', id)
	if broken(id) or not lease or tonumber(lease) < late then
		redis.call('LREM', prefix .. 'active', 1, id)
		redis.call('ZREM', prefix .. 'lease', id)
		redis.call('DEL', prefix .. 't:' .. id)
		removed = removed + 1
	end
end
for _, set in ipairs({'scheduled', 'retry', 'archived', 'completed'}) do
	for _, id in ipairs(redis.call('ZRANDMEMBER', prefix .. set, 50)) do
		if broken(id) then
			redis.call('ZREM', prefix .. set, id)
			redis.call('DEL', prefix .. 't:' .. id)
			removed = removed + 1
		end
	end
end
return removed
`)

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
