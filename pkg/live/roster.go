package live

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/pkg/internal/outage"
)

const (
	rosterKey = "crucible:workers" // the ids
	// rosterPrefix begins the keys of the reports. One lives for eval.LostFor longer than its worker has to report
	// again, so that the time it has left tells whether the worker is lost, by the clock of Redis alone.
	rosterPrefix = "crucible:worker:"
)

// Roster is an eval.Roster in Redis.
type Roster struct {
	client redis.UniversalClient
	gate   *outage.Gate
}

var _ eval.Roster = (*Roster)(nil)

// Report implements eval.Roster. KindUnavailable.
func (r *Roster) Report(ctx context.Context, w eval.WorkerInfo, ttl time.Duration) error {
	raw, err := json.Marshal(w)
	if err != nil {
		return err
	}
	return guarded(ctx, r.gate, func(ctx context.Context) error {
		_, err := r.client.Pipelined(ctx, func(p redis.Pipeliner) error {
			p.SAdd(ctx, rosterKey, w.ID)
			p.Set(ctx, rosterPrefix+w.ID, raw, ttl+eval.LostFor)
			return nil
		})
		return err
	})
}

// Leave implements eval.Roster. KindUnavailable.
func (r *Roster) Leave(ctx context.Context, id string) error {
	return guarded(ctx, r.gate, func(ctx context.Context) error {
		_, err := r.client.Pipelined(ctx, func(p redis.Pipeliner) error {
			p.SRem(ctx, rosterKey, id)
			p.Del(ctx, rosterPrefix+id)
			return nil
		})
		return err
	})
}

// Workers implements eval.Roster. KindUnavailable.
func (r *Roster) Workers(ctx context.Context) ([]eval.WorkerInfo, error) {
	workers := []eval.WorkerInfo{}
	err := guarded(ctx, r.gate, func(ctx context.Context) error {
		ids, err := r.client.SMembers(ctx, rosterKey).Result()
		if err != nil || len(ids) == 0 {
			return err
		}
		slices.Sort(ids)
		reports, left := make([]*redis.StringCmd, len(ids)), make([]*redis.DurationCmd, len(ids))
		_, err = r.client.Pipelined(ctx, func(p redis.Pipeliner) error {
			for i, id := range ids {
				reports[i], left[i] = p.Get(ctx, rosterPrefix+id), p.PTTL(ctx, rosterPrefix+id)
			}
			return nil
		})
		if err != nil && !errors.Is(err, redis.Nil) {
			return err
		}
		var gone []any
		for i, report := range reports {
			raw, err := report.Bytes()
			if err != nil {
				gone = append(gone, ids[i])
				continue
			}
			var w eval.WorkerInfo
			if json.Unmarshal(raw, &w) == nil {
				w.Lost = left[i].Val() <= eval.LostFor
				workers = append(workers, w)
			}
		}
		if len(gone) == 0 {
			return nil
		}
		return r.client.SRem(ctx, rosterKey, gone...).Err()
	})
	if err != nil {
		return nil, err
	}
	return workers, nil
}
