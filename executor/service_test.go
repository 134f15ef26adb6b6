//go:build linux

package executor_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/executor"
	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/pkg/problem"
	"github.com/crucible-eval/crucible/pkg/remote"
	"github.com/crucible-eval/crucible/pkg/testkit"
)

var quick = executor.Config{Languages: []string{"python", "bash"}}

// marked is a program that waits, and shows in the process list by its mark.
func marked(id string) eval.Request {
	return eval.Request{ID: eval.ID(id), Attempt: 1, Program: eval.Program{
		Language: "python", Code: eval.Bytes("import time\nprint('up', flush=True)\ntime.sleep(60)"), Args: []string{id}, Warm: eval.WarmOff,
		Limits: eval.Limits{WallMS: 60_000},
	}}
}

// alive counts the host's processes that have the mark among their arguments.
func alive(t testing.TB, mark string) int {
	t.Helper()
	names, err := filepath.Glob("/proc/[0-9]*/cmdline")
	require.NoError(t, err)
	n := 0
	for _, name := range names {
		if b, err := os.ReadFile(name); err == nil && bytes.Contains(b, []byte(mark)) {
			n++
		}
	}
	return n
}

func post(t testing.TB, ctx context.Context, client *http.Client, url string, body any, accept string) *http.Response {
	t.Helper()
	raw, ok := body.(string)
	if !ok {
		b, err := json.Marshal(body)
		require.NoError(t, err)
		raw = string(b)
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, url+"/v1/runs", strings.NewReader(raw))
	require.NoError(t, err)
	r.Header.Set("Content-Type", "application/json")
	if accept != "" {
		r.Header.Set("Accept", accept)
	}
	resp, err := client.Do(r)
	require.NoError(t, err)
	t.Cleanup(func() { _ = resp.Body.Close() })
	return resp
}

func TestPostAnswersWithTheResult(t *testing.T) {
	s, client := serve(t, open(t, quick))
	resp := post(t, t.Context(), client, s.URL(), `{"id":"one","attempt":1,"language":"py","code":"import sys\nprint(sys.stdin.read())\nsys.exit(3)","stdin":{"data":"/wA=","encoding":"base64"}}`, "")
	require.Equal(t, http.StatusOK, resp.StatusCode)
	var got struct {
		Verdict  string `json:"verdict"`
		Cause    string `json:"cause"`
		ExitCode int    `json:"exit_code"`
		Stderr   struct {
			Data string `json:"data"`
		} `json:"stderr"`
		Language struct {
			ID string `json:"id"`
		} `json:"language"`
		Isolation eval.Isolation `json:"isolation"`
	}
	require.NoError(t, json.NewDecoder(resp.Body).Decode(&got))
	require.Equal(t, "runtime_error", got.Verdict)
	require.Equal(t, "python", got.Language.ID)
	require.NotEmpty(t, got.Isolation.Level)
}

func TestPostStreamsEvents(t *testing.T) {
	s, client := serve(t, open(t, quick))
	resp := post(t, t.Context(), client, s.URL(), `{"id":"one","attempt":1,"language":"python","code":"print('hi')"}`, "text/event-stream")
	require.Equal(t, "text/event-stream", resp.Header.Get("Content-Type"))
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	var names []string
	for line := range strings.SplitSeq(string(body), "\n") {
		if name, ok := strings.CutPrefix(line, "event: "); ok {
			names = append(names, name)
		}
	}
	// However the output is cut into events.
	require.Equal(t, []string{"admitted", "started", "stdout", "finished"}, slices.Compact(names))
}

func TestBadRequestsAreProblems(t *testing.T) {
	s, client := serve(t, open(t, quick))
	for _, c := range []struct {
		name, body string
		status     int
		says       string
	}{
		{"malformed", `{"id":`, 400, "JSON"},
		{"unknown field", `{"id":"a","attempt":1,"language":"python","code":"1","colour":"red"}`, 400, "colour"},
		{"wrong type", `{"id":"a","attempt":"one"}`, 400, "attempt"},
		{"no code", `{"id":"a","attempt":1,"language":"python"}`, 400, "code"},
		{"bad path", `{"id":"a","attempt":1,"language":"python","files":{"../x":"1"}}`, 400, "files"},
		{"too large", `{"code":"` + strings.Repeat("x", 50_000_000) + `"}`, 413, "bytes"},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, accept := range []string{"", "text/event-stream"} {
				resp := post(t, t.Context(), client, s.URL(), c.body, accept)
				require.Equal(t, c.status, resp.StatusCode)
				require.Equal(t, problem.MediaType, resp.Header.Get("Content-Type"))
				body, err := io.ReadAll(resp.Body)
				require.NoError(t, err)
				require.Contains(t, string(body), c.says)
			}
		})
	}
}

func TestFullIs503WithRetryAfter(t *testing.T) {
	l := open(t, executor.Config{Languages: quick.Languages, Slots: 1, Patience: -1})
	s, client := serve(t, l)
	resp := post(t, t.Context(), client, s.URL(), marked("holder"), "text/event-stream")
	require.Equal(t, http.StatusOK, resp.StatusCode) // started
	full := post(t, t.Context(), client, s.URL(), marked("refused"), "text/event-stream")
	require.Equal(t, http.StatusServiceUnavailable, full.StatusCode)
	require.Equal(t, "1", full.Header.Get("Retry-After"))
	require.NoError(t, l.Stop(t.Context(), "holder"))
	_, err := io.Copy(io.Discard, resp.Body)
	require.NoError(t, err)
}

func TestDisconnectKillsTheRun(t *testing.T) {
	l := open(t, quick)
	s, client := serve(t, l)
	for _, accept := range []string{"text/event-stream", ""} {
		id := fmt.Sprintf("disconnect-%d", time.Now().UnixNano())
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			raw, _ := json.Marshal(marked(id))
			r, _ := http.NewRequestWithContext(ctx, http.MethodPost, s.URL()+"/v1/runs", bytes.NewReader(raw))
			r.Header.Set("Content-Type", "application/json")
			r.Header.Set("Accept", accept)
			if resp, err := client.Do(r); err == nil {
				_, _ = io.Copy(io.Discard, resp.Body)
				_ = resp.Body.Close()
			}
		}()
		testkit.Eventually(t, func() bool { return alive(t, id) > 0 }, "the program runs")
		cancel()
		<-done
		testkit.EventuallyWithin(t, 2*time.Second, func() bool { return alive(t, id) == 0 }, "the program is gone")
		testkit.EventuallyWithin(t, 2*time.Second, func() bool { st, _ := l.Status(t.Context()); return st.Busy == 0 }, "the slot is free")
	}
}

func TestStopByAttempt(t *testing.T) {
	s, client := serve(t, open(t, quick))
	resp := post(t, t.Context(), client, s.URL(), marked("stopped"), "text/event-stream")
	for attempt, want := range map[string]int{"2": 404, "x": 400} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodDelete, s.URL()+"/v1/runs/stopped?attempt="+attempt, nil)
		require.NoError(t, err)
		answer, err := client.Do(r)
		require.NoError(t, err)
		require.NoError(t, answer.Body.Close())
		require.Equal(t, want, answer.StatusCode)
	}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodDelete, s.URL()+"/v1/runs/stopped?attempt=1", nil)
	require.NoError(t, err)
	answer, err := client.Do(r)
	require.NoError(t, err)
	require.NoError(t, answer.Body.Close())
	require.Equal(t, http.StatusNoContent, answer.StatusCode)
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.Contains(t, string(body), "the run was stopped")
}

func TestTokensAreAskedFor(t *testing.T) {
	s, client := serve(t, open(t, quick), "secret")
	for token, want := range map[string]eval.Kind{"": eval.KindUnauthorized, "wrong": eval.KindUnauthorized, "secret": ""} {
		_, err := remote.NewExecutor(s.URL(), token, client).Status(t.Context())
		require.Equal(t, want, eval.KindOf(err), "%v", err)
	}
}

// cutter is a TCP proxy whose connections a test can cut.
func cutter(t *testing.T, to string) (url string, cut func()) {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	conns := make(chan net.Conn, 16)
	served := make(chan struct{})
	go func() {
		defer close(served)
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := (&net.Dialer{}).DialContext(context.Background(), "tcp", to)
			if err != nil {
				_ = in.Close()
				continue
			}
			conns <- in
			conns <- out
			go func() { _, _ = io.Copy(out, in) }()
			go func() { _, _ = io.Copy(in, out) }()
		}
	}()
	cut = func() {
		_ = l.Close()
		for {
			select {
			case c := <-conns:
				_ = c.Close()
			default:
				return
			}
		}
	}
	t.Cleanup(func() { cut(); <-served })
	return "http://" + l.Addr().String(), cut
}

func TestACutConnectionIsALostExecutorAndKillsTheRun(t *testing.T) {
	s, client := serve(t, open(t, quick))
	url, cut := cutter(t, s.Addr())
	req := marked(fmt.Sprintf("cut-%d", time.Now().UnixNano()))
	res, err := remote.NewExecutor(url, "", client).Run(t.Context(), req, func(e eval.RunEvent) {
		if e.Type == eval.RunStdout && bytes.HasSuffix(e.Data, []byte("\n")) {
			cut()
		}
	})
	require.Equal(t, eval.KindExecutorLost, eval.KindOf(err), "%v", err)
	require.Equal(t, "up\n", string(res.Stdout.Data))
	testkit.EventuallyWithin(t, 2*time.Second, func() bool { return alive(t, string(req.ID)) == 0 }, "the program is gone")

	_, err = remote.NewExecutor(url, "", client).Run(t.Context(), marked("never-reached"), nil)
	require.Equal(t, eval.KindUnavailable, eval.KindOf(err), "it was not taken on: %v", err)
	_, err = remote.NewExecutor(url, "", client).Status(t.Context())
	require.Equal(t, eval.KindUnavailable, eval.KindOf(err), "%v", err)
}

// TestACutConnectionOfARunInLineIsNoLoss cuts it while the run waits for a
// slot: nothing of it was at work.
func TestACutConnectionOfARunInLineIsNoLoss(t *testing.T) {
	l := open(t, executor.Config{Languages: quick.Languages, Slots: 1, Patience: time.Minute})
	s, client := serve(t, l)
	first := remote.NewExecutor(s.URL(), "", client)
	up, ended := make(chan struct{}, 1), make(chan error, 1)
	ctx, stop := context.WithCancel(t.Context())
	go func() {
		_, err := first.Run(ctx, marked("in-front"), func(e eval.RunEvent) {
			if e.Type == eval.RunStarted {
				up <- struct{}{}
			}
		})
		ended <- err
	}()
	<-up
	url, cut := cutter(t, s.Addr())
	waited := make(chan error, 1)
	go func() {
		_, err := remote.NewExecutor(url, "", client).Run(t.Context(), marked("behind"), nil)
		waited <- err
	}()
	testkit.Eventually(t, func() bool { st, _ := l.Status(t.Context()); return st.Waiting == 1 }, "one waits")
	cut()
	err := <-waited
	require.Equal(t, eval.KindUnavailable, eval.KindOf(err), "%v", err)
	stop()
	require.ErrorIs(t, <-ended, context.Canceled)
}

// TestARunWhoseWorkerIsFrozenEnds posts a run and says nothing more, as a
// worker does that is stopped: its connection stays open.
func TestARunWhoseWorkerIsFrozenEnds(t *testing.T) {
	l := open(t, quick)
	s, client := serve(t, l)
	req := marked(fmt.Sprintf("frozen-%d", time.Now().UnixNano()))
	req.Silence = eval.MinSilence
	resp := post(t, t.Context(), client, s.URL(), req, "text/event-stream")
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.Contains(t, string(body), "nothing was heard of the worker for 1s")
	require.Zero(t, alive(t, string(req.ID)), "the program is gone when it is told")

	req = marked("not-frozen")
	req.Silence, req.Code = eval.MinSilence, eval.Bytes("import time\ntime.sleep(3)\nprint('done')")
	res, err := remote.NewExecutor(s.URL(), "", client).Run(t.Context(), req, nil)
	require.NoError(t, err, "the client gives signs of life")
	require.Equal(t, "done\n", string(res.Stdout.Data))

	req.Silence = 1
	_, err = remote.NewExecutor(s.URL(), "", client).Run(t.Context(), req, nil)
	require.Equal(t, eval.KindInvalid, eval.KindOf(err), "%v", err)
}

func TestStopDrains(t *testing.T) {
	l := open(t, quick)
	s, client := serve(t, l)
	r := remote.NewExecutor(s.URL(), "", client)
	up := make(chan struct{})
	type answer struct {
		res eval.Result
		err error
	}
	ended := make(chan answer, 1)
	req := marked("drained")
	req.Code = eval.Bytes("import time\nprint('up', flush=True)\ntime.sleep(0.7)\nprint('done')")
	go func() {
		res, err := r.Run(context.Background(), req, func(e eval.RunEvent) {
			if e.Type == eval.RunStarted {
				close(up)
			}
		})
		ended <- answer{res, err}
	}()
	<-up
	stopped := make(chan error, 1)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	go func() { stopped <- s.Stop(ctx) }()
	testkit.Eventually(t, func() bool { st, _ := l.Status(t.Context()); return st.Draining }, "draining")
	_, err := l.Run(t.Context(), marked("late"), nil)
	require.Equal(t, eval.KindStopping, eval.KindOf(err), "%v", err)
	got := <-ended
	require.NoError(t, got.err)
	require.Equal(t, "up\ndone\n", string(got.res.Stdout.Data))
	require.NoError(t, <-stopped)
}

func TestStopKillsWhatDoesNotEndInTime(t *testing.T) {
	l := open(t, quick)
	s, client := serve(t, l)
	r := remote.NewExecutor(s.URL(), "", client)
	up, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		_, err := r.Run(context.Background(), marked("undrained"), func(e eval.RunEvent) {
			if e.Type == eval.RunStarted {
				close(up)
			}
		})
		ended <- err
	}()
	<-up
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	began := time.Now()
	require.NoError(t, s.Stop(ctx))
	require.Less(t, time.Since(began), 10*time.Second)
	err := <-ended
	require.Equal(t, eval.KindStopping, eval.KindOf(err), "%v", err)
	require.NoError(t, s.Stop(ctx), "twice is fine")
}

func TestOpenRefusesWeakerIsolationThanAskedFor(t *testing.T) {
	open(t, quick) // skips where there is none
	_, err := executor.Open(t.Context(), executor.Config{MinIsolation: "gvisor"}, nil, nil)
	require.ErrorContains(t, err, "gvisor")
	_, err = executor.Open(t.Context(), executor.Config{MinIsolation: "strong"}, nil, nil)
	require.ErrorContains(t, err, "strong")
}

func TestListeningBeyondLoopbackNeedsTokens(t *testing.T) {
	_, err := executor.New(executor.ServiceConfig{Listen: "0.0.0.0:0"}, open(t, quick), nil, nil)
	require.ErrorContains(t, err, "credentials")
}

func TestMetrics(t *testing.T) {
	registry := prometheus.NewRegistry()
	l, err := executor.Open(t.Context(), quick, nil, registry)
	if err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { require.NoError(t, l.Close()) })
	for i, code := range []string{"exit 0", "exit 1", "exit 2"} {
		_, err := l.Run(t.Context(), eval.Request{ID: eval.ID(fmt.Sprint(i)), Attempt: 1, Program: eval.Program{Language: "bash", Code: eval.Bytes(code)}}, nil)
		require.NoError(t, err)
	}
	_, err = l.Run(t.Context(), eval.Request{}, nil)
	require.Error(t, err)
	require.NoError(t, testutil.GatherAndCompare(registry, strings.NewReader(`
# HELP crucible_executor_runs_total Runs that ended, by language and verdict; the verdict is ended for runs that were stopped, and failed where the platform failed.
# TYPE crucible_executor_runs_total counter
crucible_executor_runs_total{language="bash",verdict="accepted"} 1
crucible_executor_runs_total{language="bash",verdict="runtime_error"} 2
# HELP crucible_executor_rejections_total Runs that were not taken on, by the kind of error.
# TYPE crucible_executor_rejections_total counter
crucible_executor_rejections_total{kind="invalid"} 1
# HELP crucible_executor_busy_slots Runs under way.
# TYPE crucible_executor_busy_slots gauge
crucible_executor_busy_slots 0
`), "crucible_executor_runs_total", "crucible_executor_rejections_total", "crucible_executor_busy_slots"))
}

func TestAThousandRunsLeaveNothing(t *testing.T) {
	if testing.Short() {
		t.Skip("takes half a minute")
	}
	l := open(t, quick)
	descriptors := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		require.NoError(t, err)
		return len(entries)
	}
	run := func(i int) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		if i%4 == 0 {
			ctx, cancel = context.WithTimeout(ctx, time.Duration(i%7)*time.Millisecond)
			defer cancel()
		}
		code := []string{"exit 0", "kill -9 $$", "echo $((1/0))", "sleep 60 & exit 1"}[i%4]
		_, err := l.Run(ctx, eval.Request{ID: eval.ID(fmt.Sprint("thousand-", i)), Attempt: 1, Program: eval.Program{Language: "bash", Code: eval.Bytes(code)}}, nil)
		if ctx.Err() == nil {
			require.NoError(t, err)
		}
	}
	for i := range 8 {
		run(i)
	}
	before := descriptors()
	for i := range 1000 {
		run(i)
	}
	st, err := l.Status(t.Context())
	require.NoError(t, err)
	require.Zero(t, st.Busy)
	testkit.Eventually(t, func() bool { return descriptors() <= before+2 }, "descriptors are closed")
}

func TestEveryAnswerTellsTheLoad(t *testing.T) {
	l := open(t, executor.Config{Languages: quick.Languages, Slots: 2, MemoryBytes: 1 << 30, Patience: -1})
	s, client := serve(t, l)
	load := func(resp *http.Response) eval.Load {
		t.Helper()
		got, ok := eval.ParseLoad(resp.Header.Get(eval.LoadHeader))
		require.True(t, ok, "%d %q", resp.StatusCode, resp.Header.Get(eval.LoadHeader))
		return got
	}
	running := post(t, t.Context(), client, s.URL(), marked("loads-it"), "text/event-stream")
	want := eval.Load{Slots: 2, Busy: 1, MemoryBytes: 1 << 30, ReservedBytes: 256 << 20}
	require.Equal(t, want, load(running), "200, a stream")
	large := marked("too-large")
	large.Limits.MemoryBytes = 900 << 20
	refused := post(t, t.Context(), client, s.URL(), large, "")
	require.Equal(t, 503, refused.StatusCode)
	require.Equal(t, want, load(refused), "503")
	require.Equal(t, want, load(post(t, t.Context(), client, s.URL(), `{"id":`, "")), "400")

	r := remote.NewExecutor(s.URL(), "", client)
	_, known := r.(eval.Loaded).Load()
	require.False(t, known)
	status, err := r.Status(t.Context())
	require.NoError(t, err)
	require.Equal(t, want, status.Load)
	heard, known := r.(eval.Loaded).Load()
	require.True(t, known)
	require.Equal(t, want, heard)
	require.NoError(t, l.Stop(t.Context(), "loads-it"))
	_, err = io.Copy(io.Discard, running.Body)
	require.NoError(t, err)
}
