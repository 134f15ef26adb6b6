package httpkit_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/labstack/echo/v4"
	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/pkg/httpkit"
	"github.com/crucible-eval/crucible/pkg/testkit"
)

func readyz(t *testing.T, s *httpkit.Server) (int, httpkit.Readiness) {
	t.Helper()
	status, got := do(t, "GET", s.URL()+"/readyz", "")
	var r httpkit.Readiness
	require.NoError(t, json.Unmarshal([]byte(got), &r), got)
	return status, r
}

func TestReadinessTellsTheTruthOfEachPart(t *testing.T) {
	var database, queue atomic.Pointer[error]
	try := func(p *atomic.Pointer[error]) func(context.Context) error {
		return func(context.Context) error {
			if err := p.Load(); err != nil {
				return *err
			}
			return nil
		}
	}
	s := serve(t, httpkit.Options{Parts: []httpkit.Part{{Name: "database", Try: try(&database)}, {Name: "queue", Try: try(&queue), Optional: true}}})
	becomes := func(code int, status, problem string) {
		t.Helper()
		var r httpkit.Readiness
		testkit.Eventually(t, func() bool {
			var got int
			got, r = readyz(t, s)
			return got == code && r.Status == status
		}, status)
		require.Equal(t, problem, r.Problem)
		require.Len(t, r.Parts, 2)
	}
	becomes(200, "ok", "")
	var away error = eval.Errorf(eval.KindUnavailable, "the queue's Redis cannot be reached: %w", errors.New("dial 192.0.2.7"))
	queue.Store(&away)
	becomes(200, "degraded", "queue: the queue's Redis cannot be reached")
	var secret = errors.New("password of user crucible is wrong")
	database.Store(&secret)
	becomes(503, "unavailable", "database: something went wrong on our side; the log has the details")
	database.Store(nil)
	queue.Store(nil)
	becomes(200, "ok", "")
}

func TestProbesAreNoLoad(t *testing.T) {
	var tries atomic.Int64
	begun, goOn := make(chan struct{}), make(chan struct{})
	s := serve(t, httpkit.Options{Parts: []httpkit.Part{{Name: "slow", Try: func(ctx context.Context) error {
		if tries.Add(1) == 1 {
			close(begun)
			<-goOn
		}
		return ctx.Err()
	}}}})
	// One that gives up does not spoil the outcome for the others.
	impatient, giveUp := context.WithCancel(t.Context())
	var probes sync.WaitGroup
	probes.Go(func() {
		req, err := http.NewRequestWithContext(impatient, "GET", s.URL()+"/readyz", nil)
		if err != nil {
			t.Error(err)
			return
		}
		if resp, err := http.DefaultClient.Do(req); err == nil {
			_ = resp.Body.Close()
			t.Error("it has not given up")
		}
	})
	<-begun
	giveUp()
	for range 50 {
		probes.Go(func() {
			resp, err := http.Get(s.URL() + "/readyz")
			if err != nil {
				t.Error(err)
				return
			}
			defer func() { _ = resp.Body.Close() }()
			if resp.StatusCode != http.StatusOK {
				t.Error(resp.Status)
			}
		})
	}
	close(goOn)
	probes.Wait()
	// At most one try a second, and a noisy machine may take a few.
	require.Less(t, tries.Load(), int64(10))
}

func TestLivenessNamesWhatIsStuck(t *testing.T) {
	var stuck atomic.Bool
	s := serve(t, httpkit.Options{
		Live: func() error {
			if stuck.Load() {
				return errors.New("reconciler has made no progress for 40s")
			}
			return nil
		},
		Parts: []httpkit.Part{{Name: "database", Try: func(context.Context) error { return errors.New("away") }}},
	})
	status, _ := do(t, "GET", s.URL()+"/livez", "")
	require.Equal(t, 200, status, "an outage of a dependency is no lack of progress")
	stuck.Store(true)
	status, got := do(t, "GET", s.URL()+"/livez", "")
	require.Equal(t, 503, status)
	require.Contains(t, got, "reconciler")
}

func TestADrainingServerRefusesNewWorkAndServesTheRest(t *testing.T) {
	s, err := httpkit.New(httpkit.Options{Name: "test", Listen: "127.0.0.1:0"})
	require.NoError(t, err)
	s.Echo().POST("/work", func(c echo.Context) error { return c.NoContent(http.StatusAccepted) }, s.NewWork)
	s.Echo().GET("/look", func(c echo.Context) error { return c.NoContent(http.StatusOK) })
	require.NoError(t, s.Start(t.Context()))
	t.Cleanup(func() { _ = s.Stop(context.Background()) })
	send := func(method, path string) *http.Response {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, s.URL()+path, strings.NewReader(""))
		require.NoError(t, err)
		resp, err := http.DefaultClient.Do(req)
		require.NoError(t, err)
		require.NoError(t, resp.Body.Close())
		return resp
	}
	work := send("POST", "/work")
	require.Equal(t, http.StatusAccepted, work.StatusCode)
	require.False(t, work.Close)
	s.Drain()
	ready, r := readyz(t, s)
	require.Equal(t, 503, ready)
	require.Equal(t, "shutting down", r.Problem)
	work = send("POST", "/work")
	require.Equal(t, 503, work.StatusCode)
	require.Equal(t, "1", work.Header.Get("Retry-After"))
	require.True(t, work.Close, "its client is asked to go elsewhere")
	look := send("GET", "/look")
	require.Equal(t, http.StatusOK, look.StatusCode)
	require.True(t, look.Close)
	require.Equal(t, http.StatusOK, send("GET", "/livez").StatusCode)
}

func TestARequestKnowsItsClient(t *testing.T) {
	who := func(c echo.Context) error { return c.String(http.StatusOK, httpkit.Client(c)) }
	s, err := httpkit.New(httpkit.Options{Name: "test", Listen: "127.0.0.1:0", Tokens: []httpkit.Token{
		{Client: "ann", Secret: "old"}, {Client: "bob", Secret: "other"}, {Client: "ann", Secret: "new"},
	}})
	require.NoError(t, err)
	s.Echo().GET("/who", who)
	require.NoError(t, s.Start(t.Context()))
	t.Cleanup(func() { _ = s.Stop(context.Background()) })
	for secret, want := range map[string]string{"old": "ann", "new": "ann", "other": "bob"} {
		status, got := do(t, "GET", s.URL()+"/who", "", "X-Api-Key", secret)
		require.Equal(t, 200, status)
		require.Equal(t, want, got)
	}
	status, _ := do(t, "GET", s.URL()+"/who", "", "X-Api-Key", "ann")
	require.Equal(t, 401, status, "a name is no key")
}
