//go:build linux

package executor_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/executor"
	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/pkg/remote"
	"github.com/crucible-eval/crucible/pkg/testkit"
)

func TestLimitsAreCheckedAtTheDoor(t *testing.T) {
	s, client := serve(t, open(t, quick))
	for limits, want := range map[string]struct {
		status int
		says   string
	}{
		`{"wall_ms":0}`:                           {200, `"accepted"`}, // the default
		`{}`:                                      {200, `"accepted"`},
		`{"wall_ms":-1}`:                          {400, "limits.wall_ms"},
		`{"cpu_ms":9}`:                            {400, "limits.cpu_ms"},
		`{"memory_bytes":-9223372036854775808}`:   {400, "limits.memory_bytes"},
		`{"memory_bytes":9223372036854775807}`:    {400, "limits.memory_bytes"},
		`{"memory_bytes":9223372036854775808}`:    {400, "must be a whole number"},
		`{"output_bytes":1e308}`:                  {400, "must be a whole number"},
		`{"processes":1.5}`:                       {400, "must be a whole number"},
		`{"processes":"8"}`:                       {400, "must be a whole number"},
		`{"disk_bytes":NaN}`:                      {400, "not valid JSON"},
		`{"disk_bytes":-Infinity}`:                {400, "not valid JSON"},
		`{"wall_ms":null,"cpu_ms":null}`:          {200, `"accepted"`},
		`{"wall_seconds":1}`:                      {400, "is not a field"},
		`{"processes":1,"memory_bytes":67108864}`: {200, `"accepted"`},
	} {
		t.Run(limits, func(t *testing.T) {
			resp := post(t, t.Context(), client, s.URL(), `{"id":"a","attempt":1,"language":"bash","code":":","limits":`+limits+`}`, "")
			body, err := io.ReadAll(resp.Body)
			require.NoError(t, err)
			require.Equal(t, want.status, resp.StatusCode, string(body))
			require.Contains(t, string(body), want.says)
		})
	}
}

func TestTwoRunsWithTheSameIDAndAttempt(t *testing.T) {
	l := open(t, executor.Config{Languages: quick.Languages, Slots: 2})
	s, client := serve(t, l)
	first := post(t, t.Context(), client, s.URL(), marked("twin"), "text/event-stream")
	require.Equal(t, http.StatusOK, first.StatusCode)
	for _, accept := range []string{"", "text/event-stream"} {
		second := post(t, t.Context(), client, s.URL(), marked("twin"), accept)
		require.Equal(t, http.StatusConflict, second.StatusCode)
	}
	testkit.Eventually(t, func() bool { return alive(t, "twin") > 0 }, "the first one goes on")
	require.NoError(t, l.Stop(t.Context(), "twin"))
	_, err := io.Copy(io.Discard, first.Body)
	require.NoError(t, err)
}

// TestTenRunsUnderWayEndWhenTheExecutorStops is what SIGTERM brings about:
// ten end, one that waits and one that comes are refused at once.
func TestTenRunsUnderWayEndWhenTheExecutorStops(t *testing.T) {
	const runs = 10
	l := open(t, executor.Config{Languages: quick.Languages, Slots: runs, Patience: time.Minute})
	s, client := serve(t, l)
	r := remote.NewExecutor(s.URL(), "", client)
	started := make(chan struct{}, runs)
	type answer struct {
		res eval.Result
		err error
	}
	ended, waited := make(chan answer, runs), make(chan answer, 1)
	for i := range runs {
		go func() {
			req := marked(fmt.Sprint("drained-", i))
			req.Language, req.Code = "bash", eval.Bytes("echo up; read -r -t 1 < <(sleep 9); echo done")
			res, err := r.Run(context.Background(), req, func(e eval.RunEvent) {
				if e.Type == eval.RunStarted {
					started <- struct{}{}
				}
			})
			ended <- answer{res, err}
		}()
	}
	for range runs {
		<-started
	}
	go func() {
		res, err := r.Run(context.Background(), marked("in-line"), nil)
		waited <- answer{res, err}
	}()
	testkit.Eventually(t, func() bool { st, _ := l.Status(t.Context()); return st.Waiting == 1 }, "one waits")
	st, err := l.Status(t.Context())
	require.NoError(t, err)
	require.Len(t, st.Running, runs, "those with a slot")
	require.Equal(t, "bash", st.Running[0].Language)
	stopped := make(chan error, 1)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	go func() { stopped <- s.Stop(ctx) }()
	got := <-waited
	require.Equal(t, eval.KindStopping, eval.KindOf(got.err), "%v", got.err)
	require.Len(t, ended, 0, "it was told before a run ended")
	_, err = l.Run(t.Context(), marked("late"), nil)
	require.Equal(t, eval.KindStopping, eval.KindOf(err), "%v", err)
	for range runs {
		got := <-ended
		require.NoError(t, got.err)
		require.Equal(t, "up\ndone\n", string(got.res.Stdout.Data))
	}
	require.NoError(t, <-stopped)
}

// TestAReaderThatDoesNotReadSlowsNothing floods a client that reads only what
// fits into its connection: the program ends in its own time, and what the
// executor keeps is bounded by the output limit.
func TestAReaderThatDoesNotReadSlowsNothing(t *testing.T) {
	l := open(t, quick)
	s, client := serve(t, l)
	const size = 20_000_000
	req := eval.Request{ID: "unread", Attempt: 1, Program: eval.Program{
		Language: "bash", Code: eval.Bytes(fmt.Sprintf("head -c %d /dev/zero; echo over > /w/over", size)),
		Limits: eval.Limits{OutputBytes: size},
	}}
	resp := post(t, t.Context(), client, s.URL(), req, "text/event-stream")
	testkit.Eventually(t, func() bool { return alive(t, "/dev/zero") == 0 }, "the program is over, and nobody has read")
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	events := strings.Split(strings.TrimSpace(string(body)), "\n\n")
	_, data, _ := strings.Cut(events[len(events)-1], "data: ")
	var last remote.FinishedRun
	require.NoError(t, json.Unmarshal([]byte(data), &last))
	require.Nil(t, last.Error)
	require.Equal(t, eval.Accepted, last.Result.Verdict)
	require.EqualValues(t, size, last.Result.Stdout.Bytes)
}
