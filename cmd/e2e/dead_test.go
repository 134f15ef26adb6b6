//go:build e2e && linux

package e2e_test

import (
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/pkg/testkit"
)

// An executor that fails every run uses up the tries, no more and no less: then the evaluation is a dead letter, told
// with each attempt's failure and shown in asynqmon's archive, and it can be retried when the executor is well.
func TestTriesThatRunOutMakeADeadLetter(t *testing.T) {
	var broken atomic.Bool
	var refused atomic.Int64
	broken.Store(true)
	p := splitBehind(t, func(executor string) string {
		to, err := url.Parse(executor)
		require.NoError(t, err)
		proxy := httputil.NewSingleHostReverseProxy(to)
		door := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if broken.Load() && r.Method == http.MethodPost && r.URL.Path == "/v1/runs" {
				refused.Add(1)
				http.Error(w, "out of order", http.StatusInternalServerError)
				return
			}
			proxy.ServeHTTP(w, r)
		}))
		t.Cleanup(door.Close)
		return door.URL
	})

	s := python("print('at last')")
	s.RetryPolicy, s.Tags = eval.PolicyConservative, []string{"dead"} // 3 tries, after 5 s and 10 s
	e, err := p.api.Submit(t.Context(), s, 0, "")
	require.NoError(t, err)
	e = p.await(t, e)
	require.Equal(t, eval.Failed, e.Status)
	require.Equal(t, 3, e.Attempt)
	require.EqualValues(t, 3, refused.Load(), "each try is one request")
	require.Equal(t, 1, p.terminalEvents(t, e.ID))

	var letter struct {
		ID       eval.ID
		Attempts int
		Failure  eval.Failure
		History  []struct {
			Number  int
			Outcome eval.AttemptOutcome
			Failure eval.Failure
		}
	}
	require.NoError(t, p.api.Ask(t.Context(), "/api/v1/dead-letters/"+string(e.ID), nil, &letter))
	require.Equal(t, 3, letter.Attempts)
	require.Equal(t, *e.Failure, letter.Failure)
	require.Len(t, letter.History, 3)
	for i, h := range letter.History {
		require.Equal(t, []eval.AttemptOutcome{eval.AttemptRetried, eval.AttemptRetried, eval.AttemptFailed}[i], h.Outcome)
		require.NotEmpty(t, h.Failure.Message)
	}
	testkit.Eventually(t, func() bool { return len(p.tasks(t, "default", "archived")) == 1 }, "asynqmon's archive shows it")

	broken.Store(false)
	var out struct {
		Retried []struct {
			NewID eval.ID `json:"new_id"`
		}
		Failed []struct{ Detail string }
	}
	require.NoError(t, p.api.Order(t.Context(), http.MethodPost, "/api/v1/dead-letters/retry", map[string]any{"tag": "dead"}, &out))
	require.Len(t, out.Retried, 1)
	require.Empty(t, out.Failed)
	again, err := p.api.Get(t.Context(), out.Retried[0].NewID, 0)
	require.NoError(t, err)
	again = p.await(t, again)
	requireAccepted(t, again)
	require.Equal(t, e.ID, again.RetryOf)
	require.Equal(t, "at last\n", string(again.Result.Stdout.Data))
	require.Empty(t, p.tasks(t, "default", "archived"), "what was retried leaves the archive")
	e, err = p.api.Get(t.Context(), e.ID, 0)
	require.NoError(t, err)
	require.Equal(t, eval.Failed, e.Status, "what has ended stays as it is")
}
