package storage_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/crucible-eval/crucible/pkg/cache"
	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/pkg/eval/evaltest"
	"github.com/crucible-eval/crucible/pkg/remote"
	"github.com/crucible-eval/crucible/storage"
)

func cached(t testing.TB, s eval.Store) eval.Store {
	t.Helper()
	c, err := cache.New(s, cache.Options{})
	require.NoError(t, err)
	require.IsType(t, &cache.Store{}, c, "it makes no promises")
	return c
}

// SQLite makes the same promises by the same code, and takes four times as long under the race detector.
func TestCachedStore(t *testing.T) {
	cfg := postgres(t, nil)
	evaltest.TestStore(t, func(t *testing.T, now func() time.Time) eval.Store {
		cfg.Now, cfg.DataDir, cfg.Retention = now, t.TempDir(), kept
		b := open(t, cfg)
		empty(t, cfg)
		return cached(t, b.Store)
	})
}

// Whatever is done at one replica, the other's cache shows it at once.
func TestReplicasWithCachesAgree(t *testing.T) {
	clock := evaltest.NewClock()
	cfg := postgres(t, clock.Now)
	cfg.Retention = kept
	truth := open(t, cfg)
	var replicas []eval.Store
	for range 2 {
		b := open(t, cfg)
		replicas = append(replicas, cached(t, remote.NewStore(serve(t, b, storage.ServiceConfig{}), "", client(t))))
	}
	round := 0
	rapid.Check(t, func(rt *rapid.T) {
		round++
		project := fmt.Sprint("project-", round)
		for range rapid.IntRange(1, 8).Draw(rt, "steps") {
			op := drawOp(rt, project)
			op.call(replicas[rapid.IntRange(0, 1).Draw(rt, "replica")])
			clock.Advance(time.Second)
			for _, id := range []eval.ID{"a", "b"} {
				key := eval.Key{Project: project, ID: id}
				look := func(s eval.Store) (view []any) {
					view = append(view, answer(s.Get(t.Context(), key)))
					attempts, err := s.Attempts(t.Context(), key)
					view = append(view, answer(append([]eval.Attempt{}, attempts...), err))
					events, err := s.Events(t.Context(), key, 0, 100)
					return append(view, answer(append([]eval.Event{}, events...), err))
				}
				want := look(truth.Store)
				for _, s := range replicas {
					requireSameJSON(rt, want, look(s), op.name)
				}
			}
		}
	})
}

// BenchmarkReadEnded reads an evaluation that has ended, as a client does that
// looks at a result: it, its attempts and its events. Each round does both
// ways, so that the ratio is of the same moment.
func BenchmarkReadEnded(b *testing.B) {
	over := func(b *testing.B, backend *storage.Backend) eval.Store {
		return remote.NewStore(serve(b, backend, storage.ServiceConfig{}), "", client(b))
	}
	for name, openStore := range map[string]func(*testing.B) eval.Store{
		"sqlite":          func(b *testing.B) eval.Store { return open(b, storage.Config{}).Store },
		"postgres":        func(b *testing.B) eval.Store { return open(b, postgres(b, nil)).Store },
		"remote-sqlite":   func(b *testing.B) eval.Store { return over(b, open(b, storage.Config{})) },
		"remote-postgres": func(b *testing.B) eval.Store { return over(b, open(b, postgres(b, nil))) },
	} {
		b.Run(name, func(b *testing.B) {
			plain := openStore(b)
			both := []eval.Store{plain, cached(b, plain)}
			live(b, plain, "a")
			var took [2]time.Duration
			rounds := 0
			for b.Loop() {
				rounds++
				for i, s := range both {
					began := time.Now()
					_, err := s.Get(b.Context(), evaluation("a").Key)
					require.NoError(b, err)
					_, err = s.Attempts(b.Context(), evaluation("a").Key)
					require.NoError(b, err)
					_, err = s.Events(b.Context(), evaluation("a").Key, 0, 100)
					require.NoError(b, err)
					took[i] += time.Since(began)
				}
			}
			b.ReportMetric(float64(took[0].Microseconds())/float64(rounds), "plain-us")
			b.ReportMetric(float64(took[1].Microseconds())/float64(rounds), "cached-us")
			b.ReportMetric(float64(took[0])/float64(took[1]), "plain/cached")
		})
	}
}
