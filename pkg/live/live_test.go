package live_test

import (
	"context"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/pkg/eval/evaltest"
	"github.com/crucible-eval/crucible/pkg/live"
	"github.com/crucible-eval/crucible/pkg/memory"
	"github.com/crucible-eval/crucible/pkg/task"
	"github.com/crucible-eval/crucible/pkg/testkit"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t *testing.T, client *redis.Client) *live.Live {
	l := live.New(client, nil)
	t.Cleanup(func() { require.NoError(t, l.Close()) })
	return l
}

func connect(t *testing.T, url string) *task.Redis {
	t.Helper()
	r, err := task.Open(t.Context(), task.RedisConfig{URL: url}, nil)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, r.Close()) })
	return r
}

// suites runs all of them; fresh gives an empty Redis.
func suites(t *testing.T, fresh func(t *testing.T) *redis.Client) {
	t.Run("notices", func(t *testing.T) {
		evaltest.TestNotices(t, func(t *testing.T) (eval.Notices, eval.Notices) {
			client := fresh(t)
			return open(t, client), open(t, client)
		})
	})
	t.Run("output", func(t *testing.T) {
		evaltest.TestOutputLog(t, func(t *testing.T) eval.OutputLog { return open(t, fresh(t)) })
	})
	t.Run("roster", func(t *testing.T) {
		evaltest.TestRoster(t, func(t *testing.T) eval.Roster { return open(t, fresh(t)) })
	})
}

func TestEmbedded(t *testing.T) {
	suites(t, func(t *testing.T) *redis.Client { return connect(t, "").Client() })
}

func TestRedis(t *testing.T) {
	server := testkit.Redis(t)
	suites(t, func(t *testing.T) *redis.Client {
		client := connect(t, server.URL).Client()
		require.NoError(t, client.FlushAll(t.Context()).Err())
		return client
	})
}

func TestNoticesComeAgainAfterAnOutage(t *testing.T) {
	server := testkit.Redis(t)
	l := open(t, connect(t, server.URL).Client())
	notices, err := l.Watch(t.Context())
	require.NoError(t, err)
	server.Stop()
	require.Error(t, l.Announce(t.Context(), eval.Notice{Seq: 1}))
	server.Start()
	testkit.Eventually(t, func() bool {
		_ = l.Announce(t.Context(), eval.Notice{Seq: 2})
		select {
		case n := <-notices:
			return n.Seq == 2
		default:
			return false
		}
	}, "the subscription is back")
}

func TestAFrozenRedisCostsAMoment(t *testing.T) {
	server := testkit.Redis(t)
	l := open(t, connect(t, server.URL).Client())
	require.NoError(t, l.Append(t.Context(), eval.Key{Project: "p", ID: "i"}, eval.OutputChunk{Data: eval.Bytes("x")}))
	server.Pause()
	began := time.Now()
	for range 100 {
		err := l.Append(t.Context(), eval.Key{Project: "p", ID: "i"}, eval.OutputChunk{Data: eval.Bytes("x")})
		require.True(t, eval.IsKind(err, eval.KindUnavailable), "%v", err)
	}
	require.Less(t, time.Since(began), 10*time.Second)
	server.Resume()
	testkit.Eventually(t, func() bool {
		return l.Append(t.Context(), eval.Key{Project: "p", ID: "i"}, eval.OutputChunk{Data: eval.Bytes("x")}) == nil
	}, "live output is back")
}

func TestReadersBeyondTheBoundPoll(t *testing.T) {
	l := open(t, connect(t, "").Client())
	key := eval.Key{Project: "p", ID: "i"}
	const readers = 100
	got := make(chan int, readers)
	for range readers {
		go func() {
			chunks, err := l.Read(context.Background(), key, "", 20*time.Second)
			if err != nil {
				got <- -1
				return
			}
			got <- len(chunks)
		}()
	}
	require.NoError(t, l.Append(t.Context(), key, eval.OutputChunk{Data: eval.Bytes("x")}))
	for range readers {
		require.Equal(t, 1, <-got)
	}
}

func TestEveryChangeIsAnnounced(t *testing.T) {
	l := open(t, connect(t, "").Client())
	store := live.Announcing(memory.NewStore(memory.Options{}), l)
	notices, err := l.Watch(t.Context())
	require.NoError(t, err)
	key := eval.Key{Project: "default", ID: "0190a0a0-0000-7000-8000-000000000001"}
	heard := func(status eval.Status, cancelRequested bool) {
		t.Helper()
		n := <-notices
		require.Equal(t, key, n.Key)
		require.Equal(t, status, n.Status)
		require.Equal(t, cancelRequested, n.CancelRequested)
	}
	_, _, err = store.Create(t.Context(), eval.Submission{Evaluations: []eval.Evaluation{{Key: key, Spec: eval.Spec{Program: eval.Program{Language: "python"}}}}})
	require.NoError(t, err)
	heard(eval.Queued, false)
	_, err = store.Claim(t.Context(), eval.ClaimRequest{Key: key, Worker: "w", Lease: time.Hour})
	require.NoError(t, err)
	heard(eval.Running, false)
	_, err = store.Cancel(t.Context(), key, "")
	require.NoError(t, err)
	heard(eval.Running, true)
	_, err = store.Finish(t.Context(), eval.Lease{Key: key, Attempt: 1}, eval.Outcome{Cancelled: true})
	require.NoError(t, err)
	heard(eval.Cancelled, true)
}
