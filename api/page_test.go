package api_test

import (
	"net/http"
	"regexp"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/api"
)

// elsewhere finds what a page would load or run.
var elsewhere = regexp.MustCompile(`(?i)<script|<link|<img|src=|@import|url\(|href="(https?:)?//`)

func TestPagesLoadNothingFromElsewhereAndRunNothing(t *testing.T) {
	p := start(t)
	for _, path := range []string{"/", "/docs"} {
		r := p.get(path)
		require.Equal(t, http.StatusOK, r.Code)
		require.NotRegexp(t, elsewhere, r.Body)
		require.Contains(t, r.Header.Get("Content-Security-Policy"), "default-src 'none'")
	}
}

func TestHomeShowsWhatRuns(t *testing.T) {
	p := start(t)
	id := p.post("/api/v1/evaluations", hello).evaluation().ID
	p.run(id, accepted("hello\n"))
	body := p.get("/").Body
	for _, want := range []string{"v0-test", "namespaces", "Python 3.11.7", "cobc is not installed", "accepted", string(id), "curl -s", p.url, "/monitor", "/docs", "/metrics", "critical"} {
		require.Contains(t, body, want)
	}
}

func TestHomeEscapesWhatProgramsAndClientsSay(t *testing.T) {
	p := start(t)
	id := p.post("/api/v1/evaluations", hello).evaluation().ID
	p.run(id, broken(`<script>alert(1)</script>`))
	require.NotContains(t, p.get("/").Body, "<script>")
}

func TestDocsShowEveryOperation(t *testing.T) {
	p := start(t)
	body := p.get("/docs").Body
	for path, item := range contract.Paths.Map() {
		for _, op := range item.Operations() {
			require.Contains(t, body, `id="`+op.OperationID+`"`)
			require.Contains(t, body, path)
		}
	}
	for name := range contract.Components.Schemas {
		require.Contains(t, body, `id="`+name+`"`)
	}
	r := p.get("/openapi.yaml")
	require.Equal(t, string(api.OpenAPI()), r.Body)
}
