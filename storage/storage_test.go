package storage_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/pkg/eval/evaltest"
	"github.com/crucible-eval/crucible/pkg/remote"
	"github.com/crucible-eval/crucible/pkg/testkit"
	"github.com/crucible-eval/crucible/storage"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(testkit.Services(m)) }

// open opens a backend that ends with the test.
func open(t testing.TB, cfg storage.Config) *storage.Backend {
	t.Helper()
	if cfg.DataDir == "" {
		cfg.DataDir = t.TempDir()
	}
	b, err := storage.Open(t.Context(), cfg, nil)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, b.Close()) })
	return b
}

// postgres is a backend in a new database.
func postgres(t testing.TB, now func() time.Time) storage.Config {
	return storage.Config{DatabaseURL: testkit.Postgres(t).NewDatabase(t), AutoMigrate: true, Now: now, MaxConnections: 8}
}

// serve serves a backend and returns where.
func serve(t testing.TB, b *storage.Backend, cfg storage.ServiceConfig) string {
	t.Helper()
	cfg.Listen = "127.0.0.1:0"
	s, err := storage.New(cfg, b, nil, nil)
	require.NoError(t, err)
	require.NoError(t, s.Start(t.Context()))
	t.Cleanup(func() { require.NoError(t, s.Stop(t.Context())) })
	return s.URL()
}

// client makes HTTP clients that leave nothing behind.
func client(t testing.TB) *http.Client {
	transport := &http.Transport{MaxIdleConnsPerHost: 16}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

func TestStores(t *testing.T) {
	for name, config := range map[string]func(*testing.T, func() time.Time) storage.Config{
		"memory": func(_ *testing.T, now func() time.Time) storage.Config {
			return storage.Config{Backend: storage.Memory, Now: now}
		},
		"file": func(_ *testing.T, now func() time.Time) storage.Config {
			return storage.Config{Backend: storage.File, Now: now}
		},
		"sqlite": func(_ *testing.T, now func() time.Time) storage.Config {
			return storage.Config{Backend: storage.SQLite, Now: now}
		},
	} {
		t.Run(name, func(t *testing.T) {
			evaltest.TestStore(t, func(t *testing.T, now func() time.Time) eval.Store { return open(t, config(t, now)).Store })
		})
	}
}

func TestMaxRunning(t *testing.T) {
	databases(t, func(t *testing.T, cfg storage.Config) {
		evaltest.TestMaxRunning(t, func(t *testing.T, now func() time.Time, rules eval.Rules) eval.Store {
			if cfg.Backend == storage.SQLite {
				cfg.DataDir = t.TempDir()
			}
			cfg.Now, cfg.Rules = now, rules
			b := open(t, cfg)
			execute(t, cfg, "DELETE FROM evaluations")
			execute(t, cfg, "DELETE FROM programs")
			execute(t, cfg, "DELETE FROM attempts")
			execute(t, cfg, "DELETE FROM evaluation_events")
			return b.Store
		})
	})
}

// The suite shares one database: making one for each test takes most of the time.
func TestPostgresStore(t *testing.T) {
	cfg := postgres(t, nil)
	evaltest.TestStore(t, func(t *testing.T, now func() time.Time) eval.Store {
		cfg.Now = now
		cfg.DataDir = t.TempDir()
		b := open(t, cfg)
		empty(t, cfg)
		return b.Store
	})
}

func empty(t *testing.T, cfg storage.Config) {
	execute(t, cfg, `TRUNCATE evaluations, programs, tags, attempts, evaluation_events, dead_letters, idempotency_keys, callbacks, blobs, blob_refs`)
}

func TestRemoteStores(t *testing.T) {
	twin := func(t *testing.T, b *storage.Backend) eval.Store {
		return remote.NewStore(serve(t, b, storage.ServiceConfig{Tokens: []string{"secret"}}), "secret", client(t))
	}
	t.Run("memory", func(t *testing.T) {
		evaltest.TestStore(t, func(t *testing.T, now func() time.Time) eval.Store {
			return twin(t, open(t, storage.Config{Backend: storage.Memory, Now: now}))
		})
	})
	t.Run("postgres", func(t *testing.T) {
		cfg := postgres(t, nil)
		evaltest.TestStore(t, func(t *testing.T, now func() time.Time) eval.Store {
			cfg.Now, cfg.DataDir = now, t.TempDir()
			b := open(t, cfg)
			empty(t, cfg)
			return twin(t, b)
		})
	})
}

func TestBlobs(t *testing.T) {
	for name, cfg := range map[string]storage.Config{
		"memory": {Backend: storage.Memory},
		"folder": {Backend: storage.SQLite},
	} {
		t.Run(name, func(t *testing.T) {
			evaltest.TestBlobs(t, func(t *testing.T) eval.Blobs { return open(t, cfg).Blobs })
		})
		t.Run(name+" over HTTP", func(t *testing.T) {
			evaltest.TestBlobs(t, func(t *testing.T) eval.Blobs {
				return remote.NewBlobs(serve(t, open(t, cfg), storage.ServiceConfig{}), "", client(t))
			})
		})
	}
}
