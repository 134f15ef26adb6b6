package api_test

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/api"
	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/pkg/live"
	"github.com/crucible-eval/crucible/pkg/memory"
	"github.com/crucible-eval/crucible/pkg/problem"
	"github.com/crucible-eval/crucible/pkg/task"
	"github.com/crucible-eval/crucible/pkg/testkit"
)

// platform is an API over a real store, a real queue and a Redis inside the
// process. Tests play the worker.
type platform struct {
	t     testing.TB
	api   *api.Service
	store eval.Store
	blobs eval.Blobs
	live  *live.Live
	redis *task.Redis
	queue *recordingQueue
	exec  *executor
	url   string
}

type option func(*api.Config, *api.Deps)

func start(t testing.TB, options ...option) *platform {
	t.Helper()
	ctx := t.Context()
	redis, err := task.Open(ctx, task.RedisConfig{}, nil)
	require.NoError(t, err)
	t.Cleanup(func() { _ = redis.Close() })
	l := live.New(redis.Client(), slog.New(slog.DiscardHandler))
	t.Cleanup(func() { _ = l.Close() })
	p := &platform{t: t, live: l, redis: redis, blobs: memory.NewBlobs(1 << 30), exec: newExecutor(),
		queue: &recordingQueue{Queue: task.NewQueue(redis)}}
	p.store = live.Announcing(memory.NewStore(memory.Options{}), l)
	cfg := api.Config{Listen: "127.0.0.1:0"}
	deps := api.Deps{
		Store: p.store, Blobs: p.blobs, Queue: p.queue, Notices: l, Output: l, Roster: l, Redis: redis,
		Executors: []api.NamedExecutor{{Name: "local", Executor: p.exec}}, Version: "v0-test",
	}
	for _, o := range options {
		o(&cfg, &deps)
	}
	p.api, err = api.New(cfg, deps)
	require.NoError(t, err)
	require.NoError(t, p.api.Start(ctx))
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		checked.CloseIdleConnections() // the server waits for those that it has not seen used
		require.NoError(t, p.api.Stop(ctx))
	})
	p.url = p.api.URL()
	return p
}

// response is an answer, read whole.
type response struct {
	t      testing.TB
	Code   int
	Header http.Header
	Body   string
}

func (p *platform) get(path string) response { return p.send("GET", path, "", nil) }

func (p *platform) post(path, body string) response { return p.send("POST", path, body, nil) }

func (p *platform) send(method, path, body string, header http.Header) response {
	p.t.Helper()
	req := p.request(method, path, strings.NewReader(body), header)
	if body == "" {
		req.Body, req.ContentLength = http.NoBody, 0
	}
	resp, err := checked.Do(req)
	require.NoError(p.t, err)
	defer func() { _ = resp.Body.Close() }()
	raw, err := io.ReadAll(resp.Body)
	require.NoError(p.t, err)
	return response{p.t, resp.StatusCode, resp.Header, string(raw)}
}

func (p *platform) request(method, path string, body io.Reader, header http.Header) *http.Request {
	p.t.Helper()
	req, err := http.NewRequestWithContext(p.t.Context(), method, p.url+path, body)
	require.NoError(p.t, err)
	if method == http.MethodPost {
		req.Header.Set("Content-Type", "application/json")
	}
	maps.Copy(req.Header, header)
	return req
}

func (r response) decode(into any) {
	r.t.Helper()
	require.NoError(r.t, json.Unmarshal([]byte(r.Body), into), r.Body)
}

// problem checks that the answer is a problem of this kind, and returns it.
func (r response) problem(status int, kind eval.Kind) problem.Problem {
	r.t.Helper()
	require.Equal(r.t, status, r.Code, r.Body)
	require.Equal(r.t, "application/problem+json", r.Header.Get("Content-Type"))
	var p problem.Problem
	r.decode(&p)
	require.Equal(r.t, "urn:crucible:problem:"+string(kind), p.Type, r.Body)
	require.NotEmpty(r.t, p.Detail)
	require.NotEmpty(r.t, p.Do)
	return p
}

// invalid checks that exactly these fields are named, with what is wrong.
func (r response) invalid(fields ...string) {
	r.t.Helper()
	var named []string
	for _, f := range r.problem(http.StatusBadRequest, eval.KindInvalid).Errors {
		named = append(named, f.Field)
		require.NotEmpty(r.t, f.Message)
	}
	require.Equal(r.t, fields, named, r.Body)
}

// evaluation is what a client reads.
type evaluation struct {
	ID      eval.ID      `json:"id"`
	Status  eval.Status  `json:"status"`
	Verdict eval.Verdict `json:"verdict"`
	eval.Spec
	BatchID           string        `json:"batch_id"`
	RetryOf           eval.ID       `json:"retry_of"`
	Client            string        `json:"client"`
	Failure           *eval.Failure `json:"failure"`
	Reason            string        `json:"reason"`
	QueueMS           *float64      `json:"queue_ms"`
	FinishedAt        *time.Time    `json:"finished_at"`
	CancelRequestedAt *time.Time    `json:"cancel_requested_at"`
	Result            *struct {
		ExitCode       *int `json:"exit_code"`
		Stdout, Stderr struct {
			Data      string `json:"data"`
			Encoding  string `json:"encoding"`
			Bytes     int64  `json:"bytes"`
			Truncated bool   `json:"truncated"`
			Preview   bool   `json:"preview"`
			URL       string `json:"url"`
		}
		Artifacts []struct {
			Path, Data, Encoding, URL, Error string
			Bytes                            int64
		} `json:"artifacts"`
		ArtifactsCut bool `json:"artifacts_cut"`
	} `json:"result"`
	Links struct {
		Self, Events, Stdout, Stderr, Cancel, Retry string
	} `json:"links"`
}

func (e evaluation) key() eval.Key { return eval.Key{Project: eval.DefaultProject, ID: e.ID} }

func (r response) evaluation() evaluation {
	r.t.Helper()
	var e evaluation
	r.decode(&e)
	require.NotEmpty(r.t, e.ID, r.Body)
	return e
}

type list struct {
	Evaluations []evaluation `json:"evaluations"`
	Next        string       `json:"next"`
}

func (r response) list() (l list) {
	r.t.Helper()
	require.Equal(r.t, http.StatusOK, r.Code, r.Body)
	r.decode(&l)
	return l
}

// stored counts the evaluations in the store.
func (p *platform) stored() int {
	p.t.Helper()
	stats, err := p.store.Stats(p.t.Context(), eval.DefaultProject)
	require.NoError(p.t, err)
	n := 0
	for _, c := range stats.Statuses {
		n += int(c)
	}
	return n
}

// nextQueued waits for an evaluation that is queued.
func (p *platform) nextQueued() eval.ID {
	p.t.Helper()
	var id eval.ID
	testkit.Eventually(p.t, func() bool {
		page, err := p.store.List(p.t.Context(), eval.Query{Project: eval.DefaultProject, Status: []eval.Status{eval.Queued}})
		if err != nil || len(page.Evaluations) == 0 {
			return false
		}
		id = page.Evaluations[0].ID
		return true
	}, "an evaluation to be queued")
	return id
}

func keyOf(id eval.ID) eval.Key { return eval.Key{Project: eval.DefaultProject, ID: id} }

// claim starts an attempt as a worker does.
func (p *platform) claim(id eval.ID) eval.Lease {
	p.t.Helper()
	e, err := p.store.Claim(p.t.Context(), eval.ClaimRequest{Key: keyOf(id), Worker: "worker-1", Lease: time.Minute})
	require.NoError(p.t, err)
	return eval.Lease{Key: e.Key, Attempt: e.Attempt}
}

func (p *platform) finish(l eval.Lease, o eval.Outcome) {
	p.t.Helper()
	_, err := p.store.Finish(p.t.Context(), l, o)
	require.NoError(p.t, err)
}

// run is an attempt from its claim to its end.
func (p *platform) run(id eval.ID, o eval.Outcome) { p.t.Helper(); p.finish(p.claim(id), o) }

// print adds to the live output. On a busy machine the log may refuse what
// comes too late for it.
func (p *platform) print(l eval.Lease, stream string, offset int64, text string) {
	p.t.Helper()
	chunk := eval.OutputChunk{Attempt: l.Attempt, Stream: stream, Offset: offset, Data: eval.Bytes(text), At: time.Now().UTC()}
	testkit.Eventually(p.t, func() bool { return p.live.Append(p.t.Context(), l.Key, chunk) == nil }, "the output log")
}

func accepted(stdout string) eval.Outcome {
	zero := 0
	return eval.Outcome{Executor: "local", Result: &eval.Result{
		Verdict: eval.Accepted, Usage: eval.Usage{ExitCode: &zero, WallMS: 12.5, CPUMS: 9.25, MemoryPeakBytes: 8 << 20},
		Stdout: eval.Stream{Data: []byte(stdout), Bytes: int64(len(stdout))}, Language: eval.LanguageRef{ID: "python", Version: "3.11.7"},
		Isolation: eval.Isolation{Level: "namespaces"},
	}}
}

func broken(message string) eval.Outcome {
	return eval.Outcome{Failure: &eval.Failure{Kind: eval.KindInvalid, Message: message}}
}

// waiters waits until so many requests wait.
func (p *platform) waiters(n int64) {
	p.t.Helper()
	testkit.Eventually(p.t, func() bool {
		var stats struct{ Waiters int64 }
		p.get("/api/v1/stats").decode(&stats)
		return stats.Waiters >= n
	}, "requests to wait")
}
