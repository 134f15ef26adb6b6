package task

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/crucible-eval/crucible/pkg/eval"
)

// Archived is a task in asynq's archive, which is its list of what it gave up on.
type Archived struct {
	Evaluation eval.ID
	queue, id  string
}

// Archived returns archived tasks of evaluations: of each queue the newest first, limit from a place on. KindUnavailable.
func (q *Queue) Archived(ctx context.Context, from, limit int) (archived []Archived, err error) {
	err = q.guarded(ctx, func(ctx context.Context) error {
		lists := map[string]*redis.StringSliceCmd{}
		_, err := q.redis.client.Pipelined(ctx, func(p redis.Pipeliner) error {
			for _, queue := range Queues() {
				lists[queue] = p.ZRevRange(ctx, queueKey(queue, "archived"), int64(from), int64(from+limit-1))
			}
			return nil
		})
		for _, queue := range Queues() {
			for _, id := range lists[queue].Val() {
				if of, _, ours := strings.Cut(id, ":"); ours {
					archived = append(archived, Archived{eval.ID(of), queue, id})
				}
			}
		}
		return err
	})
	return archived, err
}

// Unarchive removes archived tasks; those that are not there any more are no error. KindUnavailable.
func (q *Queue) Unarchive(ctx context.Context, all []Archived) error {
	return q.guarded(ctx, func(ctx context.Context) error {
		for _, a := range all {
			if state, err := q.state(ctx, a.queue, a.id); err != nil || state != "archived" {
				if err != nil {
					return err
				}
				continue
			}
			if err := q.clear(ctx, a.queue, a.id); err != nil {
				return err
			}
		}
		return nil
	})
}

// Unarchived returns those of the dispatches that are neither archived, nor waiting or in a worker's hand to be.
// KindUnavailable.
func (q *Queue) Unarchived(ctx context.Context, all []eval.Dispatch) (missing []eval.Dispatch, err error) {
	if len(all) == 0 {
		return nil, nil
	}
	err = q.guarded(ctx, func(ctx context.Context) error {
		states := make([][]*redis.StringCmd, len(all))
		_, err := q.redis.client.Pipelined(ctx, func(p redis.Pipeliner) error {
			for i, d := range all {
				for _, queue := range Queues() {
					states[i] = append(states[i], p.HGet(ctx, taskKey(queue, taskID(d.ID, d.Seq)), "state"))
				}
			}
			return nil
		})
		if err != nil && !errors.Is(err, redis.Nil) {
			return err
		}
		for i, d := range all {
			if !slices.ContainsFunc(states[i], func(s *redis.StringCmd) bool {
				return slices.Contains([]string{"archived", "pending", "active"}, s.Val())
			}) {
				missing = append(missing, d)
			}
		}
		return nil
	})
	return missing, err
}

// Turn says whether it is this process's turn to do something that one of all processes does each time: at most one
// has it within every. KindUnavailable.
func (q *Queue) Turn(ctx context.Context, what string, every time.Duration) (ours bool, err error) {
	err = q.guarded(ctx, func(ctx context.Context) error {
		ours, err = q.redis.client.SetNX(ctx, "crucible:turn:"+what, 1, every).Result()
		return err
	})
	return ours, err
}
