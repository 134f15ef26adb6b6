package api_test

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/api"
	"github.com/crucible-eval/crucible/pkg/egress"
	"github.com/crucible-eval/crucible/pkg/eval"
)

// fenced finds the examples in docs/api.md: a request, then what it answers.
var fenced = regexp.MustCompile("(?s)```http\n(.*?)\n```\n\n```http\n(.*?)\n```")

// player plays a worker for the programs of the examples.
type player struct {
	eval.Queue
	p  *platform
	wg sync.WaitGroup
}

func (w *player) Enqueue(_ context.Context, d eval.Dispatch) error {
	w.wg.Go(func() {
		ctx := context.Background()
		e, err := w.p.store.Claim(ctx, eval.ClaimRequest{Key: d.Key, Worker: "worker-1", Lease: time.Minute})
		if err != nil {
			return
		}
		lease := eval.Lease{Key: e.Key, Attempt: e.Attempt}
		outcome := accepted("hello\n")
		if len(e.Spec.Artifacts) > 0 {
			outcome.Result.Artifacts = []eval.Artifact{{Path: "plot.svg", SHA256: "5f70", Content: stream([]byte("<svg/>"))}}
		}
		for i, t := range e.Spec.Tests { // all but the first fail
			one := eval.TestResult{Name: t.Name, Verdict: eval.Accepted}
			if i > 0 {
				outcome.Result.Verdict, outcome.Result.Cause = eval.WrongAnswer, eval.CauseTest
				one = eval.TestResult{Name: t.Name, Verdict: eval.WrongAnswer, Cause: eval.CauseTest, Message: `word 1 is "3.0", expected "2"`}
			}
			outcome.Result.Tests = append(outcome.Result.Tests, one)
		}
		if strings.Contains(e.Spec.Code.String(), "sleep") {
			w.untilCancelled(lease)
			outcome = eval.Outcome{Cancelled: true}
		}
		_, _ = w.p.store.Finish(ctx, lease, outcome)
	})
	return nil
}

// untilCancelled returns when somebody has asked for the end of the attempt.
func (w *player) untilCancelled(l eval.Lease) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	notices, err := w.p.live.Watch(ctx)
	if err != nil {
		return
	}
	for {
		if beat, err := w.p.store.Beat(ctx, l, time.Minute); err != nil || beat.CancelRequested {
			return
		}
		if _, more := <-notices; !more {
			return
		}
	}
}

func TestEveryExampleInTheDocs(t *testing.T) {
	raw, err := os.ReadFile("../docs/api.md")
	require.NoError(t, err)
	examples := fenced.FindAllStringSubmatch(string(raw), -1)
	require.Equal(t, strings.Count(string(raw), "```http\n"), 2*len(examples), "each request has its answer")

	w := &player{}
	p := start(t, withCallbacks(t, egress.Config{}), func(_ *api.Config, d *api.Deps) {
		w.Queue = d.Queue
		d.Queue = w
		d.StorageInfo = func(context.Context) ([]api.StoragePart, error) {
			return []api.StoragePart{{Name: "database", Backend: "memory"}}, nil
		}
	})
	w.p = p
	t.Cleanup(w.wg.Wait)
	p.get("/api/v1/languages") // the executor is known
	for range 3 {              // some that failed
		created, _, err := p.store.Create(t.Context(), eval.Submission{Evaluations: []eval.Evaluation{{Key: keyOf(newID()), Spec: spec(t)}}})
		require.NoError(t, err)
		p.run(created[0].ID, broken("refused"))
	}

	called := spec(t)
	called.CallbackURL = "https://example.org/hook"
	created, _, err := p.store.Create(t.Context(), eval.Submission{Evaluations: []eval.Evaluation{{Key: keyOf(newID()), Spec: called}}})
	require.NoError(t, err)
	p.run(created[0].ID, accepted(""))
	p.deliver(eval.Delivery{Reason: eval.CallbackGone, Message: "the receiver answered 410 Gone", HTTPStatus: 410})

	seen := map[string]bool{}
	id := ""
	for _, ex := range examples {
		request, want := strings.ReplaceAll(ex[1], "{id}", id), ex[2]
		t.Run(strings.SplitN(request, "\n", 2)[0], func(t *testing.T) {
			head, body, _ := strings.Cut(request, "\n\n")
			lines := strings.Split(head, "\n")
			method, path, _ := strings.Cut(lines[0], " ")
			header := http.Header{}
			for _, l := range lines[1:] {
				name, value, _ := strings.Cut(l, ": ")
				header.Set(name, value)
			}
			req := p.request(method, path, strings.NewReader(body), header)
			resp, err := checked.Do(req)
			require.NoError(t, err)
			defer func() { _ = resp.Body.Close() }()
			status, wantBody, _ := strings.Cut(want, "\n\n")
			require.Equal(t, status, strconv.Itoa(resp.StatusCode))
			seen[method+" "+strings.NewReplacer("/"+id, "/{id}").Replace(strings.SplitN(path, "?", 2)[0])] = true

			if resp.Header.Get("Content-Type") == "text/event-stream" {
				wantEvents(t, resp.Body, strings.Split(wantBody, "\n"))
				return
			}
			got, err := io.ReadAll(resp.Body)
			require.NoError(t, err)
			if !strings.HasPrefix(wantBody, "{") {
				require.Equal(t, wantBody, string(got))
				return
			}
			var wantJSON, gotJSON map[string]any
			require.NoError(t, json.Unmarshal(got, &gotJSON))
			if next := firstID(gotJSON); next != "" && gotJSON["retry_of"] == nil {
				id = next
			}
			require.NoError(t, json.Unmarshal([]byte(strings.ReplaceAll(wantBody, "{id}", id)), &wantJSON), "%s", wantBody)
			within(t, "answer", wantJSON, gotJSON)
		})
	}

	for path, item := range contract.Paths.Map() {
		for method := range item.Operations() {
			if strings.HasPrefix(path, "/api/v1") {
				at := method + " " + strings.NewReplacer("{stream}", "stdout", "{index}", "0", "{name}", "low").Replace(path)
				require.True(t, seen[at], "docs/api.md has no example of %s", at)
			}
		}
	}
}

// firstID is the id that the next example means.
func firstID(answer map[string]any) string {
	if id, ok := answer["id"].(string); ok {
		return id
	}
	for _, name := range []string{"evaluations", "dead_letters", "callbacks"} {
		if all, ok := answer[name].([]any); ok && len(all) > 0 {
			id, _ := all[0].(map[string]any)["id"].(string)
			return id
		}
	}
	return ""
}

// within checks that everything in want is in got; "..." is anything.
func within(t *testing.T, at string, want, got any) {
	t.Helper()
	switch w := want.(type) {
	case map[string]any:
		g, ok := got.(map[string]any)
		require.True(t, ok, "%s: %v", at, got)
		for name, v := range w {
			require.Contains(t, g, name, at)
			within(t, at+"."+name, v, g[name])
		}
	case []any:
		g, ok := got.([]any)
		require.True(t, ok, "%s: %v", at, got)
		require.GreaterOrEqual(t, len(g), len(w), at)
		for i := range w {
			within(t, at+"["+strconv.Itoa(i)+"]", w[i], g[i])
		}
	default:
		if want != "..." {
			require.Equal(t, want, got, at)
		}
	}
}

func wantEvents(t *testing.T, r io.Reader, want []string) {
	t.Helper()
	lines := bufio.NewScanner(r)
	for len(want) > 0 && lines.Scan() {
		if strings.HasPrefix(lines.Text(), "event: ") {
			require.Equal(t, want[0], lines.Text())
			want = want[1:]
		}
	}
	require.Empty(t, want)
}
