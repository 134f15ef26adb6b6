//go:build e2e && linux

package e2e_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/cmd/internal/client"
	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/pkg/testkit"
)

// The database is killed, and then the API, which has accepted evaluations
// into its journal meanwhile.
func TestTheFallbackJournalOutlivesTheDatabaseAndTheAPI(t *testing.T) {
	p := splitWith(t, "CRUCIBLE_FALLBACK_DIR="+t.TempDir())
	submit := func(n int) client.Evaluation {
		t.Helper()
		e, err := p.api.Submit(t.Context(), python(fmt.Sprintf("print(%d)", n)), 0, fmt.Sprint("key-", n))
		require.NoError(t, err)
		return e
	}
	before := submit(0)
	require.Equal(t, "0\n", string(p.await(t, before).Result.Stdout.Data))

	p.postgres.Kill9()
	var accepted []client.Evaluation
	for n := range 6 {
		e := submit(n + 1)
		require.Equal(t, eval.Queued, e.Status)
		require.Equal(t, e.ID, submit(n+1).ID, "the same key is the same evaluation")
		shown, err := p.api.Get(t.Context(), e.ID, 0)
		require.NoError(t, err)
		require.Equal(t, e.ID, shown.ID)
		accepted = append(accepted, e)
	}
	unwanted := accepted[5]
	_, err := p.api.Cancel(t.Context(), unwanted.ID, "not any more")
	require.NoError(t, err)
	require.Equal(t, "degraded", readiness(t, p.url), "it accepts, and says that something is amiss")

	p.door.signal(t, syscall.SIGKILL)
	<-p.door.done
	api := start(t, p.env, "api")
	p.api, p.url, p.door = api.client(t), api.url, api
	accepted = append(accepted, submit(7))
	p.postgres.Start()
	for n, e := range accepted {
		e = p.await(t, e)
		require.Equal(t, 1, p.terminalEvents(t, e.ID), "it ends once")
		if e.ID == unwanted.ID {
			require.Equal(t, eval.Cancelled, e.Status)
			require.Zero(t, e.Attempt, "it never started")
			continue
		}
		requireAccepted(t, e)
		require.Equal(t, fmt.Sprintln(n+1), string(e.Result.Stdout.Data))
		require.Equal(t, 1, e.Attempt)
	}
	testkit.Eventually(t, func() bool { return readiness(t, p.url) == "ok" }, "all is well again")
	require.Equal(t, before.ID, submit(0).ID)
}

func readiness(t *testing.T, url string) string {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url+"/readyz", nil)
	require.NoError(t, err)
	resp, err := http.DefaultClient.Do(r)
	require.NoError(t, err)
	defer func() { _ = resp.Body.Close() }()
	var answer struct {
		Status string `json:"status"`
	}
	require.NoError(t, json.NewDecoder(resp.Body).Decode(&answer))
	return answer.Status
}
