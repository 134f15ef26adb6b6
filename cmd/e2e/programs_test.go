//go:build e2e && linux

package e2e_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/cmd/internal/client"
	"github.com/crucible-eval/crucible/pkg/eval"
)

// patience bounds what a single program may take in a test.
const patience = time.Minute

func TestPrograms(t *testing.T) {
	for _, tt := range []struct {
		name  string
		start func(*testing.T) target
	}{
		{"all in one, embedded", embedded},
		{"all in one, real services", real},
		{"four processes, real services", split},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := tt.start(t)
			t.Run("outcomes", p.outcomes)
			t.Run("900 kB of code", p.largeCode)
			t.Run("every byte value", p.everyByte)
			t.Run("a batch of 50", p.batch)
			t.Run("output while it runs", p.liveOutput)
			t.Run("cancel while it runs", p.cancelRunning)
			t.Run("large output", p.largeOutput)
			t.Run("bad input", p.badInput)
			t.Run("numbers of the storage", p.storageNumbers)
			if p.redis != nil {
				t.Run("Redis away", p.redisAway)
			}
			if p.postgres != nil {
				t.Run("PostgreSQL away", p.postgresAway)
			}
		})
	}
}

func (p target) storageNumbers(t *testing.T) {
	var report struct {
		Parts []struct {
			Name, Backend  string
			Bytes, Objects *int64
		}
	}
	require.NoError(t, p.api.Ask(t.Context(), "/api/v1/storage", nil, &report))
	require.NotEmpty(t, report.Parts)
	database := report.Parts[0]
	require.Equal(t, "database", database.Name)
	require.Positive(t, *database.Objects, "the evaluations of the tests before")
	require.Positive(t, *database.Bytes)
	p.run(t, python("print('one more')"))
	before := *database.Objects
	require.NoError(t, p.api.Ask(t.Context(), "/api/v1/storage", nil, &report))
	require.Equal(t, before+1, *report.Parts[0].Objects)
}

func python(code string) eval.Spec {
	return eval.Spec{Program: eval.Program{Language: "python", Code: eval.Bytes(code)}}
}

// run submits and waits for the end.
func (p target) run(t *testing.T, spec eval.Spec) client.Evaluation {
	t.Helper()
	e, err := p.api.Submit(t.Context(), spec, client.MaxWait, "")
	require.NoError(t, err)
	return p.await(t, e)
}

func (p target) await(t *testing.T, e client.Evaluation) client.Evaluation {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !e.Status.Terminal() {
		require.True(t, time.Now().Before(deadline), "evaluation %s is still %s", e.ID, e.Status)
		var err error
		e, err = p.api.Get(t.Context(), e.ID, 5*time.Second)
		require.NoError(t, err)
	}
	return e
}

func (p target) outcomes(t *testing.T) {
	code := func(n int) *int { return &n }
	for _, tt := range []struct {
		name           string
		spec           eval.Spec
		verdict        eval.Verdict
		cause          eval.Cause
		exit           *int // nil: not looked at
		stdout, stderr string
	}{
		{"hello", python(`print("hello, world")`), eval.Accepted, "", code(0), "hello, world\n", ""},
		{"sys.exit(42)", python("import sys\nsys.exit(42)"), eval.RuntimeError, eval.CauseExitCode, code(42), "", ""},
		{"1/0 after a print", python("print('before')\n1/0"), eval.RuntimeError, eval.CauseExitCode, code(1), "before\n", "ZeroDivisionError"},
		{"syntax error", python("def f(:\n"), eval.RuntimeError, eval.CauseExitCode, code(1), "", "SyntaxError"},
		{
			"sleep beyond wall_ms",
			limited(python("import time\nprint('kept', flush=True)\ntime.sleep(60)"), eval.Limits{WallMS: 800}),
			eval.TimeLimit, eval.CauseWall, nil, "kept\n", "",
		},
		{
			"memory hog",
			limited(python("x=[]\nwhile True: x.append(bytearray(1<<20))"), eval.Limits{MemoryBytes: 64 << 20}),
			eval.MemoryLimit, eval.CauseOOM, nil, "", "",
		},
		{"stdin", withStdin(python("import sys; print(sys.stdin.read()[::-1])"), "drawer"), eval.Accepted, "", code(0), "reward\n", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			began := time.Now()
			e := p.run(t, tt.spec)
			require.Equal(t, eval.Completed, e.Status, "%+v", e.Failure)
			require.Equal(t, tt.verdict, e.Verdict)
			require.Equal(t, tt.cause, e.Cause)
			require.Equal(t, 1, e.Attempt, "a program that fails is not run again")
			require.NotNil(t, e.Result)
			if tt.exit != nil {
				require.Equal(t, tt.exit, e.Result.ExitCode)
			}
			require.Equal(t, tt.stdout, string(e.Result.Stdout.Data))
			require.Contains(t, string(e.Result.Stderr.Data), tt.stderr)
			require.Less(t, time.Since(began), 15*time.Second, "prompt")
		})
	}
}

func requireAccepted(t *testing.T, e client.Evaluation) {
	t.Helper()
	require.Equal(t, eval.Completed, e.Status, "%+v", e.Failure)
	require.NotNil(t, e.Result)
	require.Equal(t, eval.Accepted, e.Verdict, "exit code %v, signal %q, stderr %q", e.Result.ExitCode, e.Result.Signal, e.Result.Stderr.Data)
}

func limited(s eval.Spec, l eval.Limits) eval.Spec  { s.Limits = l; return s }
func withStdin(s eval.Spec, input string) eval.Spec { s.Stdin = eval.Bytes(input); return s }

func (p target) largeCode(t *testing.T) {
	e := p.run(t, python("# "+strings.Repeat("x", 900<<10)+"\nprint('read it all')"))
	requireAccepted(t, e)
	require.Equal(t, "read it all\n", string(e.Result.Stdout.Data))
}

func (p target) everyByte(t *testing.T) {
	want := make([]byte, 256)
	for i := range want {
		want[i] = byte(i)
	}
	e := p.run(t, python("import sys\nsys.stdout.buffer.write(bytes(range(256)))"))
	requireAccepted(t, e)
	require.Equal(t, want, e.Result.Stdout.Data)
	var whole bytes.Buffer
	_, err := p.api.Output(t.Context(), e.ID, "stdout", 0, &whole)
	require.NoError(t, err)
	require.Equal(t, want, whole.Bytes())
}

func (p target) batch(t *testing.T) {
	var requests []json.RawMessage
	for i := range 50 {
		raw, err := json.Marshal(python(fmt.Sprintf("print('number', %d)", i)))
		require.NoError(t, err)
		requests = append(requests, raw)
	}
	b, err := p.api.SubmitBatch(t.Context(), requests)
	require.NoError(t, err)
	require.Len(t, b.Evaluations, 50)
	for i, e := range b.Evaluations {
		e = p.await(t, e)
		requireAccepted(t, e)
		require.Equal(t, fmt.Sprintf("number %d\n", i), string(e.Result.Stdout.Data))
	}
}

func (p target) liveOutput(t *testing.T) {
	// It ends only when it is cancelled, so what is seen was seen before.
	e, err := p.api.Submit(t.Context(), python("import time\nprint('alive', flush=True)\ntime.sleep(30)"), 0, "")
	require.NoError(t, err)
	p.printed(t, e.ID, "alive\n")
	now, err := p.api.Get(t.Context(), e.ID, 0)
	require.NoError(t, err)
	require.Equal(t, eval.Running, now.Status)
	_, err = p.api.Cancel(t.Context(), e.ID, "seen enough")
	require.NoError(t, err)
	require.Equal(t, eval.Cancelled, p.await(t, now).Status)
}

// follow reads the events of an evaluation until one is the one looked for.
func (p target) follow(t *testing.T, id eval.ID, found func(client.Event) bool) client.Event {
	t.Helper()
	var last client.Event
	ok := false
	err := p.api.Events(t.Context(), "/api/v1/evaluations/"+string(id)+"/events", nil, "", func(ev client.Event) bool {
		last = ev
		ok = found(ev)
		return !ok
	})
	require.NoError(t, err)
	require.True(t, ok, "the stream ended with %s %s", last.Type, last.Data)
	return last
}

// printed waits until a running program has written exactly this.
func (p target) printed(t *testing.T, id eval.ID, want string) {
	t.Helper()
	var got []byte
	p.follow(t, id, func(ev client.Event) bool {
		var chunk eval.OutputChunk
		if ev.Type == string(eval.RunStdout) && json.Unmarshal(ev.Data, &chunk) == nil {
			got = append(got, chunk.Data...)
		}
		return len(got) >= len(want)
	})
	require.Equal(t, want, string(got))
}

func (p target) cancelRunning(t *testing.T) {
	e, err := p.api.Submit(t.Context(), python("import time\nprint('partial', flush=True)\ntime.sleep(30)"), 0, "")
	require.NoError(t, err)
	p.printed(t, e.ID, "partial\n")
	began := time.Now()
	_, err = p.api.Cancel(t.Context(), e.ID, "changed my mind")
	require.NoError(t, err)
	e = p.await(t, e)
	require.Less(t, time.Since(began), 10*time.Second, "not when the program ends")
	require.Equal(t, eval.Cancelled, e.Status)
	require.Equal(t, "changed my mind", e.Reason)
	require.NotNil(t, e.Result)
	require.Equal(t, "partial\n", string(e.Result.Stdout.Data), "what it wrote is kept")

	_, err = p.api.Cancel(t.Context(), e.ID, "")
	require.Equal(t, eval.KindConflict, eval.KindOf(err))
	var asError *eval.Error
	require.ErrorAs(t, err, &asError)
	require.Equal(t, eval.Cancelled, asError.Status)
}

func (p target) largeOutput(t *testing.T) {
	const size = 11 << 20
	var want bytes.Buffer
	for i := 0; want.Len() < size; i++ {
		fmt.Fprintf(&want, "%015d\n", i)
	}
	spec := limited(python("import sys\nsys.stdout.write(''.join('%015d\\n' % i for i in range(720896)))"), eval.Limits{OutputBytes: 16 << 20})
	e := p.run(t, spec)
	requireAccepted(t, e)
	require.EqualValues(t, size, e.Result.Stdout.Bytes)
	require.False(t, e.Result.Stdout.Truncated)
	var whole bytes.Buffer
	_, err := p.api.Output(t.Context(), e.ID, "stdout", 0, &whole)
	require.NoError(t, err)
	require.True(t, bytes.Equal(want.Bytes(), whole.Bytes()), "byte for byte")

	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, p.url+"/api/v1/evaluations/"+string(e.ID)+"/output/stdout", nil)
	require.NoError(t, err)
	req.Header.Set("Range", "bytes=5000000-5000099")
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer func() { _ = resp.Body.Close() }()
	part, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	require.Equal(t, http.StatusPartialContent, resp.StatusCode)
	require.Equal(t, fmt.Sprintf("bytes 5000000-5000099/%d", size), resp.Header.Get("Content-Range"))
	require.Equal(t, want.String()[5000000:5000100], string(part))
}
