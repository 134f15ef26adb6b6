//go:build e2e && linux

package e2e_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/cmd/internal/client"
	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/pkg/testkit"
)

const betweenServices = "between-services"

// slow is a program that says when it starts, and ends by itself.
func slow(seconds float64) eval.Spec {
	return python(fmt.Sprintf("import time\nprint('started', flush=True)\ntime.sleep(%v)\nprint('ended')", seconds))
}

// answer asks a process over a connection of its own.
func (p *process) answer(t *testing.T, method, path, body string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, p.url+path, strings.NewReader(body))
	require.NoError(t, err)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+betweenServices)
	resp, err := (&http.Client{Transport: &http.Transport{}}).Do(req)
	require.NoError(t, err)
	defer func() { _ = resp.Body.Close() }()
	raw, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp, string(raw)
}

// drains checks what a process says from SIGTERM on while its work ends.
func (p *process) drains(t *testing.T) {
	t.Helper()
	resp, _ := p.answer(t, "GET", "/readyz", "")
	require.Equal(t, 200, resp.StatusCode)
	p.signal(t, syscall.SIGTERM)
	testkit.Eventually(t, func() bool {
		resp, body := p.answer(t, "GET", "/readyz", "")
		return resp.StatusCode == 503 && strings.Contains(body, "shutting down") && resp.Close
	}, "not ready from the signal on")
	resp, _ = p.answer(t, "GET", "/livez", "")
	require.Equal(t, 200, resp.StatusCode, "it makes progress")
}

func TestAPlatformThatStopsRefusesNewWorkAndShowsWhatEnds(t *testing.T) {
	p := start(t, nil, "up", "--listen", "127.0.0.1:0", "--data-dir", t.TempDir())
	up := target{api: p.client(t), url: p.url}
	e, err := up.api.Submit(t.Context(), slow(4), 0, "")
	require.NoError(t, err)
	up.printed(t, e.ID, "started\n")
	p.drains(t)
	resp, body := p.answer(t, "POST", "/api/v1/evaluations", `{"language":"python","code":"1"}`)
	require.Equal(t, 503, resp.StatusCode, body)
	require.Contains(t, body, "urn:crucible:problem:stopping")
	require.NotEmpty(t, resp.Header.Get("Retry-After"))
	require.True(t, resp.Close)
	resp, body = p.answer(t, "GET", "/api/v1/evaluations/"+string(e.ID), "")
	require.Equal(t, 200, resp.StatusCode)
	require.Contains(t, body, `"status":"running"`, "what runs may end, and can be looked at")
	require.Equal(t, 0, p.exit(t, 20*time.Second))
}

func TestEachServiceDrains(t *testing.T) {
	c := newCluster(t)
	up := target{api: c.api[0].client(t), url: c.api[0].url}
	for _, part := range []struct {
		name string
		all  []*process
		busy func(p *process, e client.Evaluation) bool
	}{
		{"worker", c.worker, func(p *process, e client.Evaluation) bool { return contains(p, `"evaluation":"`+string(e.ID)) }},
		{"executor", c.executor, func(p *process, _ client.Evaluation) bool {
			_, status := p.answer(t, "GET", "/v1/status", "")
			return strings.Contains(status, `"busy":1`)
		}},
	} {
		e, err := up.api.Submit(t.Context(), slow(4), 0, "")
		require.NoError(t, err)
		up.printed(t, e.ID, "started\n")
		stopped := 0
		for _, p := range part.all {
			if part.busy(p, e) {
				p.drains(t)
				require.Equal(t, 0, p.exit(t, 30*time.Second))
				stopped++
			}
		}
		require.Equal(t, 1, stopped, "one %s has it", part.name)
		e = up.await(t, e)
		require.Equal(t, "started\nended\n", string(e.Result.Stdout.Data))
		require.Equal(t, 1, e.Attempt, "what runs may end")
	}
	for _, p := range []*process{c.api[0], c.api[1], c.storage} {
		p.signal(t, syscall.SIGTERM)
		require.Equal(t, 0, p.exit(t, 20*time.Second))
	}
}

// cluster is a platform of single services with replicas, at addresses that
// outlive a restart.
type cluster struct {
	*testing.T
	env                   []string
	storage               *process
	api, worker, executor []*process
	storageArgs           []string
}

func newCluster(t *testing.T) *cluster {
	redis, postgres := testkit.Redis(t), testkit.Postgres(t)
	database := postgres.NewDatabase(t)
	out, err := exec.CommandContext(t.Context(), program, "migrate", "--database-url", database, "--data-dir", t.TempDir()).CombinedOutput()
	require.NoError(t, err, string(out))
	at := func() string { return fmt.Sprintf("127.0.0.1:%d", testkit.FreePort(t)) }
	c := &cluster{T: t, env: []string{"CRUCIBLE_SERVICE_TOKEN=" + betweenServices, "CRUCIBLE_REDIS_URL=" + redis.URL}}
	c.storageArgs = []string{"storage", "--listen", at(), "--database-url", database, "--data-dir", t.TempDir()}
	executors := []string{at(), at()}
	c.env = append(c.env, "CRUCIBLE_STORAGE_URL=http://"+c.storageArgs[2],
		"CRUCIBLE_EXECUTOR_URLS=http://"+executors[0]+",http://"+executors[1])
	c.storage = start(t, c.env, c.storageArgs...)
	for i := range 2 {
		c.executor = append(c.executor, start(t, c.env, "executor", "--listen", executors[i], "--slots", "2"))
		c.worker = append(c.worker, start(t, c.env, "worker", "--listen", at()))
		c.api = append(c.api, start(t, c.env, "api", "--listen", at()))
	}
	return c
}

// restart stops a process in good order and starts it again where it was.
func (c *cluster) restart(p *process, args ...string) *process {
	c.Helper()
	p.signal(c.T, syscall.SIGTERM)
	require.Equal(c, 0, p.exit(c.T, 40*time.Second), "%v", args)
	return start(c.T, c.env, args...)
}

// submitSafely is what a careful client does: the same request with the same
// key to one API after the other, until one has accepted it.
func submitSafely(ctx context.Context, apis []*client.Client, spec eval.Spec, key string) (e client.Evaluation, err error) {
	for i := 0; ctx.Err() == nil; i++ {
		if e, err = apis[i%len(apis)].Submit(ctx, spec, 0, key); err == nil {
			return e, nil
		}
		select {
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond):
		}
	}
	return e, err
}

func TestARollingRestartOfEverythingUnderLoadLosesNothing(t *testing.T) {
	c := newCluster(t)
	apis := []*client.Client{newClient(t, c.api[0].url), newClient(t, c.api[1].url)}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	rolled := make(chan struct{})
	var mu sync.Mutex
	var accepted []client.Evaluation
	var load sync.WaitGroup
	for submitter := range 3 {
		load.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-rolled:
					return
				case <-time.After(50 * time.Millisecond):
				}
				key := fmt.Sprintf("%d-%d", submitter, i)
				e, err := submitSafely(ctx, apis, python("import time; time.sleep(0.2); print('"+key+"')"), key)
				if err != nil {
					t.Errorf("submission %s: %v", key, err)
					return
				}
				mu.Lock()
				accepted = append(accepted, e)
				mu.Unlock()
			}
		})
	}
	listen := func(p *process) string { return strings.TrimPrefix(p.url, "http://") }
	for i := range 2 {
		c.api[i] = c.restart(c.api[i], "api", "--listen", listen(c.api[i]))
		c.worker[i] = c.restart(c.worker[i], "worker", "--listen", listen(c.worker[i]))
		c.executor[i] = c.restart(c.executor[i], "executor", "--listen", listen(c.executor[i]), "--slots", "2")
	}
	c.storage = c.restart(c.storage, c.storageArgs...)
	close(rolled)
	load.Wait()

	up := target{api: apis[0], url: c.api[0].url}
	require.NotEmpty(t, accepted)
	t.Logf("%d evaluations accepted", len(accepted))
	for _, e := range accepted {
		e = up.await(t, e)
		requireAccepted(t, e)
		require.Zero(t, e.Failure)
	}
	for _, e := range accepted[:min(len(accepted), 50)] {
		require.Equal(t, 1, up.terminalEvents(t, e.ID), "it ends once")
	}
}
