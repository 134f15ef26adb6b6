package quota_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/api/internal/quota"
	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/pkg/testkit"
)

func TestMain(m *testing.M) { os.Exit(testkit.Services(m).Run()) }

// queue is a store of which only the counts are asked for.
type queue struct {
	mu    sync.Mutex
	waits map[string]int64
	err   error
	asked int
}

func (q *queue) Clients(context.Context, string) (all []eval.ClientCount, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.asked++
	for client, n := range q.waits {
		all = append(all, eval.ClientCount{Client: client, Queued: n})
	}
	return all, q.err
}

func (q *queue) add(client string, n int64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.waits == nil {
		q.waits = map[string]int64{}
	}
	q.waits[client] += n
}

func (q *queue) away(err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.err = err
}

func (q *queue) questions() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.asked
}

func open(t *testing.T, cfg quota.Config, q *queue, redis *redis.Client) *quota.Gate {
	t.Helper()
	g, err := quota.New(quota.Options{Config: cfg, Source: q, Redis: redis, Logger: slog.New(slog.DiscardHandler), Registry: prometheus.NewRegistry()})
	require.NoError(t, err)
	return g
}

// submit creates n evaluations if the gate lets them in, and says when to come back.
func submit(t *testing.T, g *quota.Gate, q *queue, client string, n int) time.Duration {
	t.Helper()
	settle, err := g.Admit(t.Context(), client, n)
	if err != nil {
		e, ok := errors.AsType[*eval.Error](err)
		require.True(t, ok)
		require.Equal(t, eval.KindRateLimited, e.Kind, err)
		require.Positive(t, e.RetryAfter)
		return e.RetryAfter
	}
	q.add(client, int64(n))
	settle(true)
	return 0
}

func TestRetryAfterIsAsLongAsTheQueueNeeds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := &queue{}
		g := open(t, quota.Config{Each: quota.Limits{Queued: 100}}, q, nil)
		run, stop := context.WithCancel(t.Context())
		defer stop()
		go func() { _ = g.Run(run) }()
		require.Zero(t, submit(t, g, q, "ann", 100))
		require.Equal(t, 5*time.Second, submit(t, g, q, "ann", 1), "nothing is known of its speed")
		time.Sleep(500 * time.Millisecond) // not at the same moment as the counts
		// Four leave each second; somebody who may submit keeps the counts coming.
		for range 5 {
			time.Sleep(time.Second)
			q.add("ann", -4)
			submit(t, g, q, "bob", 1)
		}
		time.Sleep(time.Second)
		require.InDelta(t, 11, submit(t, g, q, "ann", 60).Seconds(), 4, "40 have to leave, at 4 a second while there was something")
		require.Zero(t, submit(t, g, q, "ann", 20))
		for range 30 {
			submit(t, g, q, "bob", 1)
			time.Sleep(time.Second)
		}
		require.Equal(t, time.Minute, submit(t, g, q, "ann", 1), "nothing leaves")
	})
}

func TestAReplicaSeesWhatAnotherLetInAfterASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := &queue{}
		cfg := quota.Config{Each: quota.Limits{Queued: 10}}
		one, two := open(t, cfg, q, nil), open(t, cfg, q, nil)
		require.Zero(t, submit(t, one, q, "ann", 1))
		require.Zero(t, submit(t, two, q, "ann", 1))
		require.Zero(t, submit(t, one, q, "ann", 8))
		require.Zero(t, submit(t, two, q, "ann", 8), "it does not know yet: this is how much too many there can be")
		time.Sleep(2 * time.Second)
		require.NotZero(t, submit(t, two, q, "ann", 1))
		require.NotZero(t, submit(t, one, q, "ann", 1))
	})
}

func TestManySubmissionsCostOneCountASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := &queue{}
		g := open(t, quota.Config{Each: quota.Limits{Queued: 100_000}}, q, nil)
		run, stop := context.WithCancel(t.Context())
		defer stop()
		go func() { _ = g.Run(run) }()
		for range 10 {
			for range 1000 {
				require.Zero(t, submit(t, g, q, "ann", 1))
			}
			time.Sleep(time.Second)
		}
		require.LessOrEqual(t, q.questions(), 12)
		time.Sleep(time.Hour)
		require.LessOrEqual(t, q.questions(), 13, "nobody submits, nobody counts")
	})
}

func TestAStoreThatIsAwayIsNotAskedByEach(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := &queue{}
		g := open(t, quota.Config{Each: quota.Limits{Queued: 10}}, q, nil)
		q.away(eval.Errorf(eval.KindUnavailable, "away"))
		for range 10 {
			require.Zero(t, submit(t, g, q, "ann", 1), "the store has the last word")
		}
		require.Equal(t, 1, q.questions())
		require.NotZero(t, submit(t, g, q, "ann", 1), "what it let in itself counts")
	})
}

func TestWhatWasNotCreatedTakesNoRoom(t *testing.T) {
	g := open(t, quota.Config{Each: quota.Limits{Queued: 2}}, &queue{}, nil)
	for range 10 {
		settle, err := g.Admit(t.Context(), "ann", 2)
		require.NoError(t, err)
		_, err = g.Admit(t.Context(), "ann", 1)
		require.ErrorIs(t, err, quota.ErrFull)
		settle(false)
	}
}

func TestARateIsSharedByReplicasThroughRedis(t *testing.T) {
	server := testkit.Redis(t)
	cfg := quota.Config{Each: quota.Limits{Rate: 0.01, Burst: 10}}
	q := &queue{}
	var replicas []*quota.Gate
	for range 3 {
		options, err := redis.ParseURL(server.URL)
		require.NoError(t, err)
		options.ContextTimeoutEnabled, options.MaxRetries = true, -1
		client := redis.NewClient(options)
		t.Cleanup(func() { _ = client.Close() })
		replicas = append(replicas, open(t, cfg, q, client))
	}
	in := 0
	for i := range 30 {
		if submit(t, replicas[i%3], q, "ann", 1) == 0 {
			in++
		}
	}
	require.Equal(t, 10, in, "one bucket for all")
	require.InDelta(t, 100, submit(t, replicas[0], q, "ann", 1).Seconds(), 10)

	// While Redis is away each grants the rate by itself: no more than that.
	for name, fault := range map[string]func(){"stopped": server.Stop, "hanging": func() { server.Start(); server.Pause() }} {
		t.Run(name, func(t *testing.T) {
			fault()
			client := fmt.Sprint("bob ", name)
			began, in := time.Now(), 0
			for i := range 90 {
				if submit(t, replicas[i%3], q, client, 1) == 0 {
					in++
				}
			}
			require.GreaterOrEqual(t, in, 10)
			require.LessOrEqual(t, in, 30)
			require.Less(t, time.Since(began), 10*time.Second, "nobody waits for Redis again and again")
		})
	}
	server.Resume()
}
