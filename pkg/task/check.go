package task

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/crucible-eval/crucible/pkg/eval"
)

// oldest is the first Redis on which asynq's archive works.
const oldestMajor, oldestMinor = 6, 2

// check asks the Redis whether it may be used as a queue. KindUnavailable when it does not answer; any other error
// means that it has to be configured differently.
func (r *Redis) check(ctx context.Context) error {
	err := r.inspect(ctx)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.checked, r.problem = err == nil, err
	return err
}

func (r *Redis) inspect(ctx context.Context) error {
	server, err := r.info(ctx, "server")
	if err != nil {
		return err
	}
	if v := server["redis_version"]; olderThan(v, oldestMajor, oldestMinor) {
		return eval.Errorf(eval.KindInvalid, "Redis at %s is version %s: the queue needs %d.%d or newer; upgrade it, or name another one with --redis-url", r.Addr(), v, oldestMajor, oldestMinor)
	}
	memory, err := r.info(ctx, "memory")
	if err != nil {
		return err
	}
	policy := memory["maxmemory_policy"]
	if set, err := r.client.ConfigGet(ctx, "maxmemory-policy").Result(); err == nil && set["maxmemory-policy"] != "" {
		policy = set["maxmemory-policy"]
	}
	if policy != "" && policy != "noeviction" {
		return eval.Errorf(eval.KindInvalid, "Redis at %s has maxmemory-policy %s, which may drop queued work: set `maxmemory-policy noeviction` in its configuration, or give Crucible a Redis of its own", r.Addr(), policy)
	}
	if persistence, err := r.info(ctx, "persistence"); err == nil && persistence["aof_enabled"] == "0" {
		r.log.Info("queue: Redis keeps no append-only file; if it is lost, the queue is filled again from the store", "addr", r.Addr())
	}
	r.log.Info("queue: Redis is ready", "addr", r.Addr(), "version", server["redis_version"])
	return nil
}

// checkLater repeats the check until it is answered.
func (r *Redis) checkLater(ctx context.Context) {
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	refused := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		try, cancel := context.WithTimeout(ctx, 2*time.Second)
		err := r.check(try)
		cancel()
		if err == nil {
			return
		}
		if !eval.IsKind(err, eval.KindUnavailable) && !refused {
			refused = true
			r.log.Error("queue: this Redis cannot be used; it is checked again every second", "error", err)
		}
	}
}

// info returns a section of INFO as a table.
func (r *Redis) info(ctx context.Context, section string) (map[string]string, error) {
	text, err := r.client.Info(ctx, section).Result()
	if err != nil {
		return nil, unavailable(fmt.Errorf("INFO %s: %w", section, err))
	}
	table := map[string]string{}
	for line := range strings.SplitSeq(text, "\n") {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), ":"); ok {
			table[name] = value
		}
	}
	return table, nil
}

// olderThan compares versions such as 7.0.15; one that cannot be read is not older.
func olderThan(version string, major, minor int) bool {
	first, rest, _ := strings.Cut(version, ".")
	second, _, _ := strings.Cut(rest, ".")
	a, err := strconv.Atoi(first)
	if err != nil {
		return false
	}
	b, _ := strconv.Atoi(second)
	return a < major || a == major && b < minor
}
