package platform_test

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/api"
	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/pkg/task"
	"github.com/crucible-eval/crucible/pkg/testkit"
	"github.com/crucible-eval/crucible/storage"
)

func TestMain(m *testing.M) { os.Exit(testkit.Services(m).Run()) }

// deadly is a store whose API dies when it has committed, before it answers.
type deadly struct {
	eval.Store
	die atomic.Bool
}

func (d *deadly) Create(ctx context.Context, s eval.Submission) ([]eval.Evaluation, bool, error) {
	created, replayed, err := d.Store.Create(ctx, s)
	if err == nil && d.die.Load() {
		panic(http.ErrAbortHandler)
	}
	return created, replayed, err
}

// replicas are two APIs over one database.
type replicas struct {
	*testing.T
	store *deadly
	urls  [2]string
}

// onDatabases runs a test over SQLite and over PostgreSQL.
func onDatabases(t *testing.T, test func(r *replicas)) {
	for name, cfg := range map[string]func(*testing.T) storage.Config{
		"sqlite": func(t *testing.T) storage.Config { return storage.Config{DataDir: t.TempDir()} },
		"postgres": func(t *testing.T) storage.Config {
			return storage.Config{DataDir: t.TempDir(), DatabaseURL: testkit.Postgres(t).NewDatabase(t), AutoMigrate: true}
		},
	} {
		t.Run(name, func(t *testing.T) {
			backend, err := storage.Open(t.Context(), cfg(t), nil)
			require.NoError(t, err)
			t.Cleanup(func() { _ = backend.Close() })
			redis, err := task.Open(t.Context(), task.RedisConfig{}, nil)
			require.NoError(t, err)
			t.Cleanup(func() { _ = redis.Close() })
			r := &replicas{T: t, store: &deadly{Store: backend.Store}}
			for i := range r.urls {
				a, err := api.New(api.Config{Listen: "127.0.0.1:0"}, api.Deps{Store: r.store, Queue: task.NewQueue(redis)})
				require.NoError(t, err)
				require.NoError(t, a.Start(t.Context()))
				t.Cleanup(func() { _ = a.Stop(context.Background()) })
				r.urls[i] = a.URL()
			}
			test(r)
		})
	}
}

type accepted struct {
	Code     int
	Replayed string
	Body     string
	ID       eval.ID
	Batch    string `json:"batch_id"`
}

func (r *replicas) post(replica int, path, body, key string) (accepted, error) {
	req, err := http.NewRequestWithContext(r.Context(), http.MethodPost, r.urls[replica]+path, strings.NewReader(body))
	if err != nil {
		return accepted{}, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header["Idempotency-Key"] = []string{key}
	req.GetBody = nil // net/http would send it again by itself
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return accepted{}, err
	}
	defer func() { _ = resp.Body.Close() }()
	raw, err := io.ReadAll(resp.Body)
	a := accepted{Code: resp.StatusCode, Replayed: resp.Header.Get("Idempotency-Replayed"), Body: string(raw)}
	_ = json.Unmarshal(raw, &a)
	return a, err
}

func (r *replicas) must(replica int, path, body, key string) accepted {
	r.Helper()
	a, err := r.post(replica, path, body, key)
	require.NoError(r, err)
	return a
}

func (r *replicas) stored() int64 {
	r.Helper()
	stats, err := r.store.Stats(r.Context(), eval.DefaultProject)
	require.NoError(r, err)
	return stats.Statuses[eval.Queued]
}

const (
	one   = "/api/v1/evaluations"
	batch = "/api/v1/evaluations/batch"
	hello = `{"language":"python","code":"print('hello')"}`
	other = `{"language":"python","code":"print('other')"}`
)

func TestAnIdempotencyKeyHoldsAcrossReplicas(t *testing.T) {
	onDatabases(t, func(r *replicas) {
		first := r.must(0, one, hello, "k")
		require.Equal(r, http.StatusAccepted, first.Code, first.Body)
		require.Empty(r, first.Replayed)
		for _, path := range []string{one, one + "?wait=1ms"} {
			again := r.must(1, path, ` { "code":"print('hello')", "language":"python" } `, "k")
			require.Equal(r, http.StatusAccepted, again.Code, again.Body)
			require.Equal(r, first.ID, again.ID)
			require.Equal(r, "true", again.Replayed)
		}
		reused := r.must(1, one, other, "k")
		require.Equal(r, http.StatusUnprocessableEntity, reused.Code)
		require.Contains(r, reused.Body, "was used with another request; use a new key")
		require.Equal(r, http.StatusUnprocessableEntity, r.must(1, batch, `{"evaluations":[`+hello+`]}`, "k").Code, "a batch of it is another request")

		whole := r.must(0, batch, `{"evaluations":[`+hello+`,`+other+`]}`, "b")
		require.Equal(r, http.StatusAccepted, whole.Code, whole.Body)
		again := r.must(1, batch, `{"evaluations":[`+hello+`,`+other+`]}`, "b")
		require.Equal(r, whole.Batch, again.Batch)
		require.Equal(r, "true", again.Replayed)
		require.Equal(r, http.StatusUnprocessableEntity, r.must(0, batch, `{"evaluations":[`+other+`,`+hello+`]}`, "b").Code)
		require.EqualValues(r, 3, r.stored())
	})
}

func TestTheSameKeyAtOnceAtBothReplicasCreatesOnce(t *testing.T) {
	onDatabases(t, func(r *replicas) {
		var mu sync.Mutex
		ids, fresh := map[eval.ID]int{}, 0
		var clients sync.WaitGroup
		for i := range 20 {
			clients.Go(func() {
				a, err := r.post(i%2, one, hello, "race")
				mu.Lock()
				defer mu.Unlock()
				if err != nil || a.Code != http.StatusAccepted {
					r.Errorf("%v: %d %s", err, a.Code, a.Body)
				}
				ids[a.ID]++
				if a.Replayed == "" {
					fresh++
				}
			})
		}
		clients.Wait()
		require.Len(r, ids, 1)
		require.Equal(r, 1, fresh)
		require.EqualValues(r, 1, r.stored())
	})
}

func TestACrashBetweenCommitAndAnswerIsMadeGoodByTheKey(t *testing.T) {
	onDatabases(t, func(r *replicas) {
		for i, path := range []string{one, batch} {
			body := hello
			if path == batch {
				body = `{"evaluations":[` + hello + `,` + other + `]}`
			}
			before := r.stored()
			r.store.die.Store(true)
			_, err := r.post(0, path, body, path)
			require.Error(r, err, "the connection is cut without an answer")
			r.store.die.Store(false)
			again := r.must(1, path, body, path)
			require.Equal(r, http.StatusAccepted, again.Code, again.Body)
			require.Equal(r, "true", again.Replayed)
			require.EqualValues(r, before+int64(1+i), r.stored(), "it was accepted once")
		}
	})
}

func TestAKeyThatIsNoneIsRefused(t *testing.T) {
	onDatabases(t, func(r *replicas) {
		for _, key := range []string{"", strings.Repeat("k", 256), "tab\tin it", "ümlaut"} {
			a := r.must(0, one, hello, key)
			require.Equal(r, http.StatusBadRequest, a.Code, "%q", key)
			require.Contains(r, a.Body, "1 to 255 printable ASCII characters")
		}
		require.Zero(r, r.stored())
	})
}
