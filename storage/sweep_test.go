package storage_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/pkg/eval/evaltest"
	"github.com/crucible-eval/crucible/storage"
)

const day = 24 * time.Hour

var kept = eval.Retention{Ended: 10 * day, Failed: 20 * day}

func TestSweepers(t *testing.T) {
	for _, backend := range []string{storage.Memory, storage.File, storage.SQLite} {
		t.Run(backend, func(t *testing.T) {
			evaltest.TestSweeper(t, func(t *testing.T, now func() time.Time) (eval.Store, eval.Sweeper) {
				b := open(t, storage.Config{Backend: backend, Now: now})
				return b.Store, b.Swept()
			})
		})
	}
}

func TestPostgresSweeper(t *testing.T) {
	cfg := postgres(t, nil)
	evaltest.TestSweeper(t, func(t *testing.T, now func() time.Time) (eval.Store, eval.Sweeper) {
		cfg.Now, cfg.DataDir = now, t.TempDir()
		b := open(t, cfg)
		empty(t, cfg)
		return b.Store, b.Swept()
	})
}

// everywhere runs a test over every backend, with its blobs in memory, in a
// folder or in a bucket that speaks S3.
func everywhere(t *testing.T, test func(t *testing.T, cfg storage.Config)) {
	for name, config := range map[string]func(t *testing.T) storage.Config{
		"memory":   func(*testing.T) storage.Config { return storage.Config{Backend: storage.Memory} },
		"file":     func(*testing.T) storage.Config { return storage.Config{Backend: storage.File} },
		"sqlite":   func(*testing.T) storage.Config { return storage.Config{Backend: storage.SQLite} },
		"s3":       func(t *testing.T) storage.Config { _, _, cfg := s3(t); return cfg },
		"postgres": func(t *testing.T) storage.Config { return postgres(t, nil) },
	} {
		t.Run(name, func(t *testing.T) {
			cfg := config(t)
			cfg.DataDir, cfg.Retention = t.TempDir(), kept
			test(t, cfg)
		})
	}
}

func round(t *testing.T, b *storage.Backend) storage.Swept {
	t.Helper()
	s, err := storage.NewSweeper(b, storage.SweepConfig{Step: 2, Pause: time.Nanosecond}, nil, nil)
	require.NoError(t, err)
	swept, err := s.Round(t.Context())
	require.NoError(t, err)
	return swept
}

// finish completes an evaluation whose output is in blobs.
func finish(t testing.TB, b *storage.Backend, id string, output []byte) string {
	create(t, b.Store, id)
	e, err := b.Store.Claim(t.Context(), eval.ClaimRequest{Key: evaluation(id).Key, Worker: "w", Lease: time.Minute})
	require.NoError(t, err)
	digest, size, err := b.Blobs.Put(t.Context(), bytes.NewReader(output))
	require.NoError(t, err)
	_, err = b.Store.Finish(t.Context(), eval.Lease{Key: e.Key, Attempt: 1}, eval.Outcome{
		Result: &eval.Result{Verdict: eval.Accepted, Stdout: eval.Stream{Bytes: size, Blob: digest}}})
	require.NoError(t, err)
	return digest
}

func TestWhatIsSweptIsGoneAndWhatIsLeftIsWhole(t *testing.T) {
	everywhere(t, func(t *testing.T, cfg storage.Config) {
		clock := evaltest.NewClock()
		cfg.Now = clock.Now
		b := open(t, cfg)
		shared, own := []byte("shared by both"), []byte("of one only")
		first := finish(t, b, "a", own)
		both := finish(t, b, "b", shared)
		clock.Advance(5 * day)
		require.Equal(t, both, finish(t, b, "c", shared))
		create(t, b.Store, "d")
		clock.Advance(5 * day)
		require.NoError(t, b.Close()) // what is known about blobs outlives the process
		if cfg.Backend != storage.Memory {
			b = open(t, cfg)
			require.Equal(t, storage.Swept{Evaluations: 2, Blobs: 1, BlobBytes: int64(len(own))}, round(t, b))
			_, _, err := b.Blobs.Open(t.Context(), first, 0, -1)
			require.Equal(t, eval.KindNotFound, eval.KindOf(err))
			content, _, err := b.Blobs.Open(t.Context(), both, 0, -1)
			require.NoError(t, err, "c refers to it")
			require.NoError(t, content.Close())
			require.Equal(t, storage.Swept{}, round(t, b))
			clock.Advance(5 * day)
			require.Equal(t, storage.Swept{Evaluations: 1, Blobs: 1, BlobBytes: int64(len(shared))}, round(t, b))
			_, _, err = b.Blobs.Open(t.Context(), both, 0, -1)
			require.Equal(t, eval.KindNotFound, eval.KindOf(err))
			_, err = b.Store.Get(t.Context(), evaluation("d").Key)
			require.NoError(t, err)
		}
	})
}

// Workers that put the same few outputs again and again, while they are swept
// as fast as can be, never have one taken from an evaluation that is there.
func TestNoBlobIsSweptThatSomebodyRefersTo(t *testing.T) {
	everywhere(t, func(t *testing.T, cfg storage.Config) {
		clock := evaltest.NewClock()
		cfg.Now, cfg.Retention = clock.Now, eval.Retention{Ended: 30 * time.Minute}
		b := open(t, cfg)
		sweepers := []*storage.Backend{b}
		if cfg.DatabaseURL != "" {
			sweepers = append(sweepers, open(t, cfg)) // another replica
		}
		ctx, stop := context.WithCancel(t.Context())
		var swept atomic.Int64
		var busy sync.WaitGroup
		for _, replica := range sweepers {
			busy.Go(func() {
				s, err := storage.NewSweeper(replica, storage.SweepConfig{Step: 3, Pause: time.Nanosecond}, nil, nil)
				if !assert.NoError(t, err) {
					return
				}
				for ctx.Err() == nil {
					done, err := s.Round(ctx)
					swept.Add(int64(done.Blobs))
					if err != nil && ctx.Err() == nil && eval.KindOf(err) != eval.KindUnavailable { // busy: two met
						assert.NoError(t, err)
						return
					}
				}
			})
		}
		const workers, each = 3, 6
		var moving sync.RWMutex // time stands still between a Put and its Finish
		var working sync.WaitGroup
		for w := range workers {
			working.Go(func() {
				for n := range each {
					id := string(rune('a'+w)) + "-" + string(rune('a'+n))
					moving.RLock()
					digest := finish(t, b, id, []byte(strings.Repeat("x", 1+n%2)))
					moving.RUnlock()
					r, _, gone := b.Blobs.Open(t.Context(), digest, 0, -1)
					if gone == nil {
						assert.NoError(t, r.Close())
					} else if _, err := b.Store.Get(t.Context(), evaluation(id).Key); !assert.Equal(t, eval.KindNotFound, eval.KindOf(err), "its output: %v", gone) {
						return
					}
					moving.Lock()
					clock.Advance(40 * time.Minute)
					moving.Unlock()
				}
			})
		}
		working.Wait()
		stop()
		busy.Wait()
		t.Logf("%d blobs were swept meanwhile", swept.Load())
	})
}

func TestTheSweeperRunsByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, err := storage.Open(t.Context(), storage.Config{Backend: storage.Memory, Retention: eval.Retention{Ended: 30 * time.Second}}, nil)
		require.NoError(t, err)
		registry := prometheus.NewRegistry()
		s, err := storage.NewSweeper(b, storage.SweepConfig{Every: 10 * time.Second}, nil, registry)
		require.NoError(t, err)
		require.NoError(t, s.Start(t.Context()))
		create(t, b.Store, "a", "b")
		complete(t, b.Store, "a")
		there := func(id string) bool {
			_, err := b.Store.Get(t.Context(), evaluation(id).Key)
			return err == nil
		}
		time.Sleep(eval.MaxKept - time.Second)
		require.True(t, there("a"), "somebody may remember what an earlier process promised")
		time.Sleep(2 * time.Second)
		require.False(t, there("a"))
		complete(t, b.Store, "b")
		time.Sleep(29 * time.Second)
		require.True(t, there("b"))
		time.Sleep(15 * time.Second)
		require.False(t, there("b"))
		require.NoError(t, s.Live())
		require.NoError(t, s.Stop(t.Context()))
		require.NoError(t, b.Close())
		families, err := registry.Gather()
		require.NoError(t, err)
		for _, f := range families {
			if f.GetName() == "crucible_sweep_evaluations_total" {
				require.InDelta(t, 2, f.GetMetric()[0].GetCounter().GetValue(), 0)
				return
			}
		}
		t.Fatal("there is no metric of what was swept")
	})
}

func TestARetentionInThePastIsRefused(t *testing.T) {
	_, err := storage.Open(t.Context(), storage.Config{Backend: storage.Memory, Retention: eval.Retention{Ended: -time.Hour}}, nil)
	require.Equal(t, eval.KindInvalid, eval.KindOf(err))
}

// The file backend keeps the last cursor although all of its events are gone.
func TestNoCursorIsGivenTwiceAfterARestart(t *testing.T) {
	clock := evaltest.NewClock()
	cfg := storage.Config{Backend: storage.File, DataDir: t.TempDir(), Now: clock.Now, Retention: kept}
	b := open(t, cfg)
	create(t, b.Store, "a")
	complete(t, b.Store, "a")
	before, err := b.Store.Feed(t.Context(), eval.DefaultProject, -1, 1)
	require.NoError(t, err)
	clock.Advance(11 * day)
	require.Equal(t, 1, round(t, b).Evaluations)
	require.NoError(t, b.Close())
	b = open(t, cfg)
	create(t, b.Store, "b")
	after, err := b.Store.Feed(t.Context(), eval.DefaultProject, before[0].Cursor, 10)
	require.NoError(t, err)
	require.Len(t, after, 1, "a reader that goes on from where it was must see it")
}

// What was written before there was a table of references has them after the migration.
func TestReferencesOfOldResultsAreFound(t *testing.T) {
	databases(t, func(t *testing.T, cfg storage.Config) {
		clock := evaltest.NewClock()
		cfg.Now, cfg.Retention, cfg.DataDir = clock.Now, kept, t.TempDir()
		b := open(t, cfg)
		digest := finish(t, b, "a", []byte("old \"blob\":\"fake\" \x00"))
		db := connect(t, cfg)
		dialect := "sqlite"
		if cfg.DatabaseURL != "" {
			dialect = "postgres"
		}
		raw, err := os.ReadFile(filepath.Join("internal", "sqlstore", "migrations", dialect, "00002_nothing_lost.sql"))
		require.NoError(t, err)
		statements := []string{"DELETE FROM blob_refs", "DELETE FROM blobs"}
		for statement := range strings.SplitSeq(string(raw), ";") {
			if at := strings.Index(statement, "INSERT INTO blob"); at >= 0 {
				statements = append(statements, statement[at:])
			}
		}
		require.Len(t, statements, 4)
		for _, statement := range statements {
			_, err := db.ExecContext(t.Context(), statement)
			require.NoError(t, err, statement)
		}
		clock.Advance(11 * day)
		require.Equal(t, storage.Swept{Evaluations: 1, Blobs: 1}, round(t, b))
		_, _, err = b.Blobs.Open(t.Context(), digest, 0, -1)
		require.Equal(t, eval.KindNotFound, eval.KindOf(err))
	})
}
