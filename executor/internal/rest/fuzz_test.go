package rest_test

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/executor/internal/rest"
	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/pkg/httpkit"
	"github.com/crucible-eval/crucible/pkg/problem"
)

// idle checks requests as an executor does, and has no sandbox to run them in.
type idle struct{ admitted *eval.Request }

func (i *idle) Heard(context.Context, eval.ID, int) error { return nil }

func (i *idle) RunAdmitted(ctx context.Context, req eval.Request, _ func(), sink func(eval.RunEvent)) (eval.Result, error) {
	return i.Run(ctx, req, sink)
}

func (i *idle) Run(_ context.Context, req eval.Request, _ func(eval.RunEvent)) (eval.Result, error) {
	spec, bad := eval.DefaultPolicy().Validate(eval.Spec{Program: req.Program}, time.Now(), nil)
	if err := eval.Invalid(bad); err != nil {
		return eval.Result{}, err
	}
	req.Program = spec.Program
	i.admitted = &req
	return eval.Result{}, eval.Errorf(eval.KindUnavailable, "there is no sandbox here")
}

func (*idle) Status(context.Context) (eval.ExecutorStatus, error) { return eval.ExecutorStatus{}, nil }
func (*idle) Load() (eval.Load, bool)                             { return eval.Load{}, false }
func (*idle) Stop(context.Context, eval.ID) error                 { return nil }
func (*idle) StopAttempt(context.Context, eval.ID, int) error     { return nil }

// FuzzRun: whatever is posted, the answer is a problem that says why, and
// what is admitted keeps to every bound of the policy.
func FuzzRun(f *testing.F) {
	for _, seed := range []string{
		`{"id":"a","attempt":1,"language":"python","code":"1"}`,
		`{"id":"a","attempt":1,"language":"python","files":{"a/b.py":"1","c":{"data":"AA==","encoding":"base64"}},"entrypoint":"a/b.py"}`,
		`{"id":"a","attempt":1,"language":"c","code":"1","limits":{"wall_ms":1e308,"memory_bytes":-1}}`,
		`{"language":"c","code":"1","tests":[{"stdin":"1","expected_stdout":"2","checker":"tokens"}],"args":["\u0000"],"env":{"A":"b"}}`,
		`{"files":{"../x":"1"}}`, `[]`, `null`, `{"id":`, `{} {}`, `{"code":{"data":"*","encoding":"base64"}}`, "\xff", strings.Repeat("[", 1000),
	} {
		f.Add([]byte(seed), false)
		f.Add([]byte(seed), true)
	}
	executor := &idle{}
	server, err := httpkit.New(httpkit.Options{Name: "executor", Listen: "127.0.0.1:0", BodyLimit: 1 << 20})
	require.NoError(f, err)
	rest.Routes(server.Echo(), executor)
	f.Fuzz(func(t *testing.T, body []byte, streamed bool) {
		executor.admitted = nil
		r := httptest.NewRequest(http.MethodPost, "http://127.0.0.1/v1/runs", strings.NewReader(string(body)))
		r.Header.Set("Content-Type", "application/json")
		if streamed {
			r.Header.Set("Accept", "text/event-stream")
		}
		w := httptest.NewRecorder()
		server.Echo().ServeHTTP(w, r)
		require.Contains(t, []int{http.StatusBadRequest, http.StatusRequestEntityTooLarge, http.StatusServiceUnavailable}, w.Code, w.Body)
		require.Equal(t, problem.MediaType, w.Header().Get("Content-Type"))
		require.True(t, json.Valid(w.Body.Bytes()), w.Body)
		require.Less(t, w.Body.Len(), 1<<20)
		if req := executor.admitted; req != nil {
			policy := eval.DefaultPolicy()
			_, bad := policy.Grant(req.Limits)
			require.Empty(t, bad, "what was granted is granted again")
			for name := range req.Files {
				require.Empty(t, eval.CheckPath(name))
			}
		}
	})
}
