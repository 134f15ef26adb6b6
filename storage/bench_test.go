package storage_test

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/pkg/eval/evaltest"
	"github.com/crucible-eval/crucible/pkg/remote"
	"github.com/crucible-eval/crucible/storage"
)

// BenchmarkLife is what the platform asks of a store for one evaluation:
// create, claim, finish. alone is one after the other, together is as many at
// once as a worker has slots.
func BenchmarkLife(b *testing.B) {
	for name, openStore := range map[string]func(*testing.B) eval.Store{
		"memory": func(b *testing.B) eval.Store { return open(b, storage.Config{Backend: storage.Memory}).Store },
		"file":   func(b *testing.B) eval.Store { return open(b, storage.Config{Backend: storage.File}).Store },
		"sqlite": func(b *testing.B) eval.Store { return open(b, storage.Config{}).Store },
		"sqlite-durable": func(b *testing.B) eval.Store {
			return open(b, storage.Config{Durable: true}).Store
		},
		"postgres": func(b *testing.B) eval.Store { return open(b, postgres(b, nil)).Store },
		"remote-sqlite": func(b *testing.B) eval.Store {
			return remote.NewStore(serve(b, open(b, storage.Config{}), storage.ServiceConfig{}), "", client(b))
		},
	} {
		b.Run(name+"/alone", func(b *testing.B) {
			s, n := openStore(b), 0
			for b.Loop() {
				n++
				live(b, s, fmt.Sprint(n))
			}
		})
		b.Run(name+"/together", func(b *testing.B) {
			s := openStore(b)
			var n atomic.Int64
			b.SetParallelism(4)
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					live(b, s, fmt.Sprint(n.Add(1)))
				}
			})
		})
	}
}

// BenchmarkSweep removes a hundred evaluations, as many as a step does, each
// with an attempt, three events and a tag.
func BenchmarkSweep(b *testing.B) {
	for name, config := range map[string]func() storage.Config{
		"memory":   func() storage.Config { return storage.Config{Backend: storage.Memory} },
		"file":     func() storage.Config { return storage.Config{Backend: storage.File} },
		"sqlite":   func() storage.Config { return storage.Config{} },
		"postgres": func() storage.Config { return postgres(b, nil) },
	} {
		b.Run(name, func(b *testing.B) {
			clock := evaltest.NewClock()
			cfg := config()
			cfg.Now = clock.Now
			backend, n := open(b, cfg), 0
			for b.Loop() {
				b.StopTimer()
				for range 100 {
					n++
					live(b, backend.Store, fmt.Sprint(n))
				}
				clock.Advance(time.Hour)
				b.StartTimer()
				swept, err := backend.Swept().Sweep(b.Context(), eval.Retention{Ended: time.Minute}, 100)
				require.NoError(b, err)
				require.Equal(b, 100, swept)
			}
		})
	}
}

func live(b *testing.B, s eval.Store, id string) {
	e := evaluation(id)
	_, _, err := s.Create(b.Context(), eval.Submission{Evaluations: []eval.Evaluation{e}})
	require.NoError(b, err)
	_, err = s.Claim(b.Context(), eval.ClaimRequest{Key: e.Key, Worker: "worker", Lease: 1e9})
	require.NoError(b, err)
	_, err = s.Finish(b.Context(), eval.Lease{Key: e.Key, Attempt: 1}, eval.Outcome{Result: &eval.Result{
		Verdict: eval.Accepted, Stdout: eval.Stream{Data: []byte("hello\n"), Bytes: 6}}})
	require.NoError(b, err)
}
