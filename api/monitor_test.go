package api_test

import (
	"net/http"
	"regexp"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/api"
)

func TestMonitorIsServedSafely(t *testing.T) {
	p := start(t)
	page := p.get("/monitor")
	require.Equal(t, http.StatusOK, page.Code)
	require.Contains(t, page.Body, `window.FLAG_ROOT_PATH="\/monitor"`)
	policy := page.Header.Get("Content-Security-Policy")
	require.Contains(t, policy, "default-src 'none'")
	require.NotContains(t, policy, "script-src 'self' 'unsafe-inline'")
	require.Equal(t, "DENY", page.Header.Get("X-Frame-Options"))
	for _, script := range regexp.MustCompile(`src="(/monitor/static/[^"]+)"`).FindAllStringSubmatch(page.Body, -1) {
		r := p.get(script[1])
		require.Equal(t, http.StatusOK, r.Code)
		require.Contains(t, r.Header.Get("Content-Type"), "javascript")
	}
	require.Contains(t, p.get("/monitor/static/media/logo-color.c2b0c1f3.svg").Header.Get("Content-Type"), "image/svg")
	require.Contains(t, p.get("/monitor/queues/default").Body, "FLAG_ROOT_PATH", "its own pages are all one")
}

func TestMonitorShowsTasksWithoutTheirPayload(t *testing.T) {
	p := start(t)
	id := p.post("/api/v1/evaluations", hello).evaluation().ID
	r := p.get("/monitor/api/queues/default/pending_tasks?size=100000000&page=1")
	require.Equal(t, http.StatusOK, r.Code, r.Body)
	require.Contains(t, r.Body, "evaluation "+string(id))
	require.NotContains(t, r.Body, "project")
	require.Equal(t, http.StatusOK, p.get("/monitor/api/queues").Code)
	require.Equal(t, http.StatusOK, p.get("/monitor/api/redis_info").Code)

	require.Equal(t, http.StatusNoContent, p.post("/monitor/api/queues/default:pause", "").Code)
	require.Contains(t, p.get("/api/v1/queues").Body, `"paused":true`)
}

func TestMonitorReadOnly(t *testing.T) {
	p := start(t, func(c *api.Config, _ *api.Deps) { c.MonitorReadOnly = true })
	require.Equal(t, http.StatusMethodNotAllowed, p.post("/monitor/api/queues/default:pause", "").Code)
	require.Equal(t, http.StatusOK, p.get("/monitor/api/queues").Code)
}
