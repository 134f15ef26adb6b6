package storage_test

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/pkg/eval/evaltest"
	"github.com/crucible-eval/crucible/pkg/remote"
	"github.com/crucible-eval/crucible/pkg/testkit"
	"github.com/crucible-eval/crucible/storage"
)

func TestPostgresGoesAndComesBack(t *testing.T) {
	server := testkit.Postgres(t, testkit.Private())
	b := open(t, storage.Config{DatabaseURL: server.NewDatabase(t), AutoMigrate: true, MaxConnections: 4})
	create(t, b.Store, "before")
	for name, fault := range map[string]func(){"stopped": server.Stop, "killed": server.Kill9} {
		t.Run(name, func(t *testing.T) {
			fault()
			evaltest.TestUnreachable(t, b.Store)
			require.Equal(t, eval.KindUnavailable, eval.KindOf(b.Ready(t.Context())))
			server.Start()
			e, err := b.Store.Get(t.Context(), evaluation("before").Key)
			require.NoError(t, err, "the first request after the return must succeed")
			require.Equal(t, eval.Queued, e.Status)
			create(t, b.Store, name)
			require.NoError(t, b.Ready(t.Context()))
		})
	}
}

func TestPostgresThatHangsIsUnavailable(t *testing.T) {
	server := testkit.Postgres(t, testkit.Private())
	b := open(t, storage.Config{DatabaseURL: server.NewDatabase(t), AutoMigrate: true, MaxConnections: 4, Timeout: 300 * time.Millisecond})
	create(t, b.Store, "before")
	server.Pause()
	evaltest.TestUnreachable(t, b.Store)
	server.Resume()
	testkit.Eventually(t, func() bool { return b.Ready(t.Context()) == nil }, "it answers again")
	complete(t, b.Store, "before")
}

func TestNothingIsHalfWrittenWhenPostgresDies(t *testing.T) {
	server := testkit.Postgres(t, testkit.Private())
	b := open(t, storage.Config{DatabaseURL: server.NewDatabase(t), AutoMigrate: true, MaxConnections: 4})
	const batch = 20
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	enough := make(chan struct{})
	var once sync.Once
	var writers sync.WaitGroup
	accepted := make([]int, 3)
	for w := range accepted {
		writers.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				var sub eval.Submission
				for i := range batch {
					e := evaluation(fmt.Sprintf("%d-%d-%d", w, n, i))
					e.BatchID = fmt.Sprintf("%d-%d", w, n)
					sub.Evaluations = append(sub.Evaluations, e)
				}
				if _, _, err := b.Store.Create(ctx, sub); err != nil {
					assert.Equal(t, eval.KindUnavailable, eval.KindOf(err), "%v", err)
					return
				}
				if accepted[w] = n + 1; n == 5 {
					once.Do(func() { close(enough) })
				}
			}
		})
	}
	<-enough
	server.Kill9()
	writers.Wait()
	server.Start()
	for w, n := range accepted {
		for i := range n + 1 { // the last one was cut: all of it, or nothing
			page, err := b.Store.List(t.Context(), eval.Query{Project: eval.DefaultProject, Batch: fmt.Sprintf("%d-%d", w, i)})
			require.NoError(t, err)
			if i == n && len(page.Evaluations) == 0 {
				continue
			}
			require.Len(t, page.Evaluations, batch, "batch %d of writer %d", i, w)
			for _, e := range page.Evaluations {
				_, err := b.Store.Get(t.Context(), e.Key)
				require.NoError(t, err)
				events, err := b.Store.Events(t.Context(), e.Key, 0, 10)
				require.NoError(t, err)
				require.Len(t, events, 1)
			}
		}
	}
}

func TestClosedStoresAreUnavailable(t *testing.T) {
	databases(t, func(t *testing.T, cfg storage.Config) {
		b := open(t, cfg)
		require.NoError(t, b.Close())
		evaltest.TestUnreachable(t, b.Store)
	})
}

func TestTheStorageServiceIsGone(t *testing.T) {
	b := open(t, storage.Config{Backend: storage.Memory})
	s, err := storage.New(storage.ServiceConfig{Listen: "127.0.0.1:0"}, b, nil, nil)
	require.NoError(t, err)
	require.NoError(t, s.Start(t.Context()))
	store := remote.NewStore(s.URL(), "", client(t))
	blobs := remote.NewBlobs(s.URL(), "", client(t))
	require.NoError(t, s.Stop(t.Context()))
	evaltest.TestUnreachable(t, store)
	_, _, err = blobs.Put(t.Context(), http.NoBody)
	require.Equal(t, eval.KindUnavailable, eval.KindOf(err))
}

func TestTheStorageServiceChecksItsCallers(t *testing.T) {
	b := open(t, storage.Config{Backend: storage.Memory})
	url := serve(t, b, storage.ServiceConfig{Tokens: []string{"right"}, Version: "v1"})
	for _, token := range []string{"", "wrong"} {
		_, err := remote.NewStore(url, token, client(t)).Get(t.Context(), evaluation("a").Key)
		require.Equal(t, eval.KindUnauthorized, eval.KindOf(err))
		_, _, err = remote.NewBlobs(url, token, client(t)).Open(t.Context(), "x", 0, -1)
		require.Error(t, err)
	}
	create(t, remote.NewStore(url, "right", client(t)), "a")
	for path, want := range map[string]string{
		"/readyz":       `{"status":"ok"}`,
		remote.InfoPath: `{"version":"v1","backend":"memory","blobs":"memory","project":"default","stats":{"statuses":{"cancelled":0,"completed":0,"failed":0,"queued":1,"running":0},"verdicts":{},"dead_letters":0,"dead_letters_by_kind":{},"oldest_queued_at":` + createdAt(t, b) + `},"retention":{"ended":0,"failed":0}}`,
	} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url+path, nil)
		require.NoError(t, err)
		r.Header.Set("Authorization", "Bearer right")
		resp, err := client(t).Do(r)
		require.NoError(t, err)
		body := readAll(t, resp)
		require.Equal(t, http.StatusOK, resp.StatusCode, body)
		require.JSONEq(t, want, body)
	}
}
