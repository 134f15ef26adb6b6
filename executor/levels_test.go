//go:build linux

package executor_test

import (
	"encoding/json"
	"net/http"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/executor"
	"github.com/crucible-eval/crucible/pkg/eval"
)

// TestLevels runs programs at each level without namespaces, in the same way
// as with them: the result, the door and the metric say which one it was.
func TestLevels(t *testing.T) {
	// What lies in a home folder is closed to the users that boxes have.
	t.Setenv("PATH", "/usr/local/bin:/usr/bin:/bin")
	for _, level := range []string{"landlock", "none"} {
		t.Run(level, func(t *testing.T) {
			registry := prometheus.NewRegistry()
			l, err := executor.Open(t.Context(), executor.Config{
				Isolation: level, AllowUnsafe: level == "none", Languages: []string{"bash", "c"}, CacheDir: t.TempDir(),
			}, nil, registry)
			require.NoError(t, err)
			t.Cleanup(func() { require.NoError(t, l.Close()) })
			s, client := serve(t, l)
			for _, c := range []struct{ language, code, out string }{
				{"bash", "cat; echo $((6*7)) > f; cat f; echo x > $TMPDIR/x && cat $TMPDIR/x", "in\n42\nx\n"},
				{"c", "#include <stdio.h>\nint main(void) { puts(\"compiled\"); }\n", "compiled\n"},
			} {
				req := eval.Request{ID: eval.ID(level + c.language), Attempt: 1, Program: eval.Program{Language: c.language, Code: eval.Bytes(c.code), Stdin: eval.Bytes("in\n")}}
				req.MinIsolation = level
				resp := post(t, t.Context(), client, s.URL(), req, "")
				require.Equal(t, http.StatusOK, resp.StatusCode)
				var res eval.Result
				require.NoError(t, json.NewDecoder(resp.Body).Decode(&res))
				require.Equal(t, eval.Accepted, res.Verdict, "%+v", res)
				require.Equal(t, c.out, string(res.Stdout.Data))
				require.Equal(t, level, res.Isolation.Level)
				require.NotEmpty(t, res.Isolation.Controls)
			}
			req := eval.Request{ID: "more", Attempt: 1, Program: eval.Program{Language: "bash", Code: eval.Bytes("echo ran")}}
			req.MinIsolation = "namespaces"
			resp := post(t, t.Context(), client, s.URL(), req, "")
			require.Equal(t, http.StatusServiceUnavailable, resp.StatusCode)
			var problem map[string]any
			require.NoError(t, json.NewDecoder(resp.Body).Decode(&problem))
			require.Contains(t, problem["detail"], level)
			require.Contains(t, problem["detail"], "namespaces")

			n, err := testutil.GatherAndCount(registry, "crucible_executor_isolation_control")
			require.NoError(t, err)
			require.Greater(t, n, 15)
		})
	}
	_, err := executor.Open(t.Context(), executor.Config{Isolation: "none"}, nil, nil)
	require.ErrorContains(t, err, "--allow-unsafe")
	_, err = executor.Open(t.Context(), executor.Config{Isolation: "landlock", MinIsolation: "namespaces"}, nil, nil)
	require.ErrorContains(t, err, "landlock")
}
