//go:build e2e && linux

package e2e_test

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/cmd/internal/client"
	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/pkg/problem"
	"github.com/crucible-eval/crucible/pkg/testkit"
)

// zeros is an endless body.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = '0'
	}
	return len(p), nil
}

func (p target) badInput(t *testing.T) {
	before := p.total(t)
	for _, tt := range []struct {
		name, method, path string
		body               io.Reader
		status             int
		field              string // named in the answer
	}{
		{"malformed JSON", "POST", "", strings.NewReader(`{"language":`), 400, ""},
		{"unknown field", "POST", "", strings.NewReader(`{"language":"python","code":"1","wall":3}`), 400, "wall"},
		{"unknown language", "POST", "", strings.NewReader(`{"language":"klingon","code":"1"}`), 400, "language"},
		{"empty code", "POST", "", strings.NewReader(`{"language":"python","code":""}`), 400, "code"},
		{"negative limit", "POST", "", strings.NewReader(`{"language":"python","code":"1","limits":{"wall_ms":-1}}`), 400, "limits.wall_ms"},
		{"absurd limit", "POST", "", strings.NewReader(`{"language":"python","code":"1","limits":{"memory_bytes":9000000000000}}`), 400, "limits.memory_bytes"},
		{"wrong type", "POST", "", strings.NewReader(`{"language":"python","code":"1","limits":{"wall_ms":"long"}}`), 400, "limits.wall_ms"},
		{"batch with one bad item", "POST", "/batch", strings.NewReader(`{"evaluations":[{"language":"python","code":"1"},{"language":"python"}]}`), 400, "evaluations[1].code"},
		{"50 MB", "POST", "", io.MultiReader(strings.NewReader(`{"language":"python","code":"`), io.LimitReader(zeros{}, 50<<20)), 413, ""},
		{"unknown id", "GET", "/01890a5d-ac96-774b-bcce-b302099a8057", nil, 404, ""},
		{"no id", "GET", "/..%2f..%2fetc", nil, 400, "id"},
		{"bad cursor", "GET", "?cursor=xyz", nil, 400, "cursor"},
		{"bad status", "GET", "?status=lost", nil, 400, "status"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			req, err := http.NewRequestWithContext(t.Context(), tt.method, p.url+"/api/v1/evaluations"+tt.path, tt.body)
			require.NoError(t, err)
			if tt.body != nil {
				req.Header.Set("Content-Type", "application/json")
			}
			resp, err := http.DefaultClient.Do(req)
			require.NoError(t, err)
			defer func() { _ = resp.Body.Close() }()
			require.Equal(t, tt.status, resp.StatusCode)
			require.Equal(t, problem.MediaType, resp.Header.Get("Content-Type"))
			var told problem.Problem
			require.NoError(t, json.NewDecoder(resp.Body).Decode(&told))
			require.NotEmpty(t, told.Title)
			require.Equal(t, tt.status, told.Status)
			var fields []string
			for _, f := range told.Errors {
				require.NotEmpty(t, f.Message)
				fields = append(fields, f.Field)
			}
			if tt.field != "" {
				require.Contains(t, fields, tt.field)
			}
		})
	}
	require.Equal(t, before, p.total(t), "nothing is stored")
}

// total is how many evaluations there are.
func (p target) total(t *testing.T) int64 {
	t.Helper()
	var stats eval.Stats
	require.NoError(t, p.api.Ask(t.Context(), "/api/v1/stats", nil, &stats))
	var n int64
	for _, v := range stats.Statuses {
		n += v
	}
	return n
}

func (p target) redisAway(t *testing.T) {
	p.redis.Stop()
	t.Cleanup(p.redis.Start)
	var waiting []eval.ID
	for range 3 {
		began := time.Now()
		e, err := p.api.Submit(t.Context(), python("print('patient')"), 0, "")
		require.NoError(t, err, "the storage is the truth")
		require.Less(t, time.Since(began), 10*time.Second)
		waiting = append(waiting, e.ID)
	}
	p.redis.Start()
	for _, id := range waiting {
		e, err := p.api.Get(t.Context(), id, time.Second)
		require.NoError(t, err)
		e = p.await(t, e)
		requireAccepted(t, e)
		require.Equal(t, "patient\n", string(e.Result.Stdout.Data))
	}
}

func (p target) postgresAway(t *testing.T) {
	before := p.total(t)
	p.postgres.Stop()
	t.Cleanup(p.postgres.Start)
	for range 3 {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, p.url+"/api/v1/evaluations", strings.NewReader(`{"language":"python","code":"print(1)"}`))
		require.NoError(t, err)
		req.Header.Set("Content-Type", "application/json")
		resp, err := http.DefaultClient.Do(req)
		require.NoError(t, err)
		body, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		_ = resp.Body.Close()
		require.Equal(t, http.StatusServiceUnavailable, resp.StatusCode, string(body))
		require.NotEmpty(t, resp.Header.Get("Retry-After"))
	}
	p.postgres.Start()
	testkit.Eventually(t, func() bool {
		_, err := p.api.List(t.Context(), nil)
		return err == nil
	}, "the API recovers by itself")
	require.Equal(t, before, p.total(t), "nothing half-written")
	e := p.run(t, python("print('back')"))
	requireAccepted(t, e)
	require.Equal(t, "back\n", string(e.Result.Stdout.Data))
}

// TestIsolationIsNeverWeakerThanAsked: neither the whole platform nor a run
// goes on below what was asked for, and both say which level there is.
func TestIsolationIsNeverWeakerThanAsked(t *testing.T) {
	refused := launch(t, nil, "up", "--listen", "127.0.0.1:0", "--data-dir", t.TempDir(), "--isolation", "landlock", "--min-isolation", "namespaces")
	require.Equal(t, 1, refused.exit(t, 30*time.Second))
	require.Contains(t, refused.stderr.String(), `offers isolation "landlock"`)
	unsafe := launch(t, nil, "up", "--listen", "127.0.0.1:0", "--data-dir", t.TempDir(), "--isolation", "none")
	require.Equal(t, 1, unsafe.exit(t, 30*time.Second))
	require.Contains(t, unsafe.stderr.String(), "--allow-unsafe")

	p := start(t, nil, "up", "--listen", "127.0.0.1:0", "--data-dir", t.TempDir(), "--isolation", "landlock")
	api := p.client(t)
	spec := eval.Spec{Program: eval.Program{Language: "bash", Code: eval.Bytes("echo $((6*7))")}}
	spec.MinIsolation = "landlock"
	e, err := api.Submit(t.Context(), spec, client.MaxWait, "")
	require.NoError(t, err)
	require.Equal(t, eval.Accepted, e.Verdict, "%+v", e)
	require.Equal(t, "landlock", e.Result.Isolation.Level)
	spec.MinIsolation = "namespaces"
	_, err = api.Submit(t.Context(), spec, 0, "")
	require.Equal(t, eval.KindIsolation, eval.KindOf(err), "%v", err)
	require.ErrorContains(t, err, `"landlock"`)
}
