package api_test

import (
	"context"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/api"
	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/pkg/testkit"
)

func TestQueuesHaveLiveNumbers(t *testing.T) {
	p := start(t)
	type queue struct {
		Name    string
		Paused  bool
		Pending int64
	}
	var q struct{ Queues []queue }
	pending := func() int64 {
		p.get("/api/v1/queues").decode(&q)
		require.Len(t, q.Queues, 4)
		require.Equal(t, "default", q.Queues[2].Name)
		return q.Queues[2].Pending
	}
	require.Zero(t, pending())
	e := p.post("/api/v1/evaluations", hello).evaluation()
	require.EqualValues(t, 1, pending())
	p.post(e.Links.Self+"/cancel", "")
	require.Zero(t, pending())

	var one queue
	p.post("/api/v1/queues/default/pause", "").decode(&one)
	require.True(t, one.Paused)
	require.Equal(t, http.StatusOK, p.post("/api/v1/queues/default/pause", "").Code, "twice is fine")
	p.post("/api/v1/queues/default/resume", "").decode(&one)
	require.False(t, one.Paused)
	p.post("/api/v1/queues/express/pause", "").problem(http.StatusNotFound, eval.KindNotFound)
}

func TestWorkers(t *testing.T) {
	p := start(t)
	require.JSONEq(t, `{"workers":[]}`, p.get("/api/v1/workers").Body)
	require.NoError(t, p.live.Report(t.Context(), eval.WorkerInfo{ID: "w1", Host: "h", Version: "v", Slots: 2, StartedAt: time.Now(), SeenAt: time.Now()}, time.Minute))
	r := p.get("/api/v1/workers")
	require.Contains(t, r.Body, `"id":"w1"`)
	require.Contains(t, p.get("/").Body, "w1")
	require.NotContains(t, r.Body, "lost")

	busy := eval.WorkerInfo{ID: "w0", Host: "h", Version: "v", Slots: 2, StartedAt: time.Now(), SeenAt: time.Now(),
		Running: []eval.RunningInfo{{ID: newID(), Language: "python", Attempt: 1, Since: time.Now()}}}
	require.NoError(t, p.live.Report(t.Context(), busy, time.Second))
	var all struct{ Workers []eval.WorkerInfo }
	testkit.Eventually(t, func() bool {
		p.get("/api/v1/workers").decode(&all)
		return all.Workers[0].Lost
	}, "the worker that fell silent is lost")
	require.Equal(t, busy.Running[0].ID, all.Workers[0].Running[0].ID, "what it ran is still told")
	require.False(t, all.Workers[1].Lost)
	require.Contains(t, p.get("/").Body, "lost")
}

func TestExecutorsLanguagesAndIsolation(t *testing.T) {
	p := start(t)
	p.exec.set(func(s *eval.ExecutorStatus) {
		s.Running = []eval.RunningInfo{{ID: "run-1", Language: "python", Attempt: 2, Since: time.Now()}}
	})
	type executor struct {
		State, Problem string
		Reachable      bool
		Running        []eval.RunningInfo
		SeenAt         *time.Time `json:"seen_at"`
	}
	first := func() executor {
		var all struct{ Executors []executor }
		p.get("/api/v1/executors").decode(&all)
		return all.Executors[0]
	}
	var e executor
	testkit.Eventually(t, func() bool { e = first(); return len(e.Running) == 1 }, "the executor to be asked again")
	require.Equal(t, "ready", e.State)
	require.True(t, e.Reachable)
	require.Equal(t, eval.ID("run-1"), e.Running[0].ID)
	require.WithinDuration(t, time.Now(), *e.SeenAt, time.Minute)
	r := p.get("/api/v1/languages")
	require.Contains(t, r.Body, `"version":"Python 3.11.7"`)
	require.Contains(t, r.Body, `"problem":"cobc is not installed"`)
	require.Contains(t, p.get("/api/v1/isolation").Body, `"level":"namespaces"`)

	p.exec.away(eval.Errorf(eval.KindUnavailable, "the executor cannot be reached"))
	testkit.Eventually(t, func() bool { return p.get("/api/v1/isolation").Code == http.StatusServiceUnavailable }, "the executor to be away")
	e = first()
	require.Equal(t, "away", e.State)
	require.False(t, e.Reachable)
	require.Equal(t, "the executor cannot be reached", e.Problem)
	require.Empty(t, e.Running)
	require.NotNil(t, e.SeenAt, "when it last answered is remembered")
	require.Contains(t, p.get("/api/v1/languages").Body, "python", "what it offered is remembered")
	p.post("/api/v1/evaluations", `{"language":"klingon","code":"1"}`).invalid("language")
	require.Equal(t, http.StatusAccepted, p.post("/api/v1/evaluations", hello).Code)
}

func TestMinIsolationIsRefusedAtOnce(t *testing.T) {
	p := start(t)
	submit := func(level string) response {
		return p.post("/api/v1/evaluations", `{"language":"python","code":"1","min_isolation":"`+level+`"}`)
	}
	require.Equal(t, http.StatusAccepted, submit("namespaces").Code)
	require.Equal(t, http.StatusAccepted, submit("landlock").Code)
	r := submit("gvisor")
	r.problem(http.StatusServiceUnavailable, eval.KindIsolation)
	require.Contains(t, r.Body, `level \"namespaces\" at most`)
	require.Contains(t, r.Body, "/api/v1/isolation")
	p.post("/api/v1/evaluations/batch", `{"evaluations":[{"language":"python","code":"1"},{"language":"python","code":"1","min_isolation":"gvisor"}]}`).
		problem(http.StatusServiceUnavailable, eval.KindIsolation)
}

func TestBeforeAnExecutorIsReachedAnyLanguageIsAccepted(t *testing.T) {
	p := start(t, func(_ *api.Config, d *api.Deps) {
		d.Executors[0].Executor.(*executor).away(eval.Errorf(eval.KindUnavailable, "not yet"))
	})
	p.get("/api/v1/languages").problem(http.StatusServiceUnavailable, eval.KindUnavailable)
	require.Equal(t, http.StatusAccepted, p.post("/api/v1/evaluations", `{"language":"klingon","code":"1"}`).Code)
	p.exec.away(nil)
	testkit.Eventually(t, func() bool { return p.get("/api/v1/languages").Code == http.StatusOK }, "the executor to be found")
	p.post("/api/v1/evaluations", `{"language":"klingon","code":"1"}`).invalid("language")
}

func TestStatsPoliciesAndLimits(t *testing.T) {
	p := start(t)
	p.run(p.post("/api/v1/evaluations", hello).evaluation().ID, accepted(""))
	r := p.get("/api/v1/stats")
	require.Contains(t, r.Body, `"completed":1`)
	require.Contains(t, r.Body, `"failed":0`)
	var policies struct {
		Policies []struct{ Name string } `json:"retry_policies"`
		Kinds    []struct{ Kind, Retry, Means, Do string }
	}
	p.get("/api/v1/retry-policies").decode(&policies)
	require.Equal(t, "aggressive", policies.Policies[1].Name)
	require.Len(t, policies.Kinds, len(eval.Kinds()))
	for _, k := range policies.Kinds {
		if k.Kind == string(eval.KindFull) {
			require.Equal(t, "later", k.Retry)
		}
	}
	require.Contains(t, p.get("/api/v1/limits").Body, `"max_wait_ms":60000`)
	require.Contains(t, p.get("/metrics").Body, `crucible_api_evaluations_accepted_total{language="python",priority="default"} 1`)
	require.Equal(t, http.StatusOK, p.get("/livez").Code)
	require.Contains(t, p.get("/version").Body, "v0-test")
}

func TestStorageIsRealOrAbsent(t *testing.T) {
	p := start(t)
	p.get("/api/v1/storage").problem(http.StatusNotFound, eval.KindNotFound)
	size := int64(42)
	known := start(t, func(_ *api.Config, d *api.Deps) {
		d.StorageInfo = func(context.Context) ([]api.StoragePart, error) {
			return []api.StoragePart{{Name: "database", Backend: "memory", Bytes: &size}}, nil
		}
	})
	require.JSONEq(t, `{"parts":[{"name":"database","backend":"memory","bytes":42}]}`, known.get("/api/v1/storage").Body)
}

func TestWithoutRedisTheRestStillAnswers(t *testing.T) {
	p := start(t, func(_ *api.Config, d *api.Deps) {
		d.Redis, d.Roster, d.Output, d.Blobs, d.Executors = nil, nil, nil, nil, nil
	})
	p.get("/api/v1/queues").problem(http.StatusServiceUnavailable, eval.KindUnavailable)
	p.get("/api/v1/workers").problem(http.StatusServiceUnavailable, eval.KindUnavailable)
	p.get("/api/v1/events?topics=queues").problem(http.StatusServiceUnavailable, eval.KindUnavailable)
	require.Equal(t, http.StatusOK, p.get("/").Code)
	id := p.post("/api/v1/evaluations", hello).evaluation().ID
	s := p.stream("/api/v1/evaluations/"+string(id)+"/events", "")
	s.want("queued")
	p.run(id, accepted(""))
	s.want("running")
	s.want("completed")
	s.end()
}

func TestTraceIsRecorded(t *testing.T) {
	p := start(t)
	otel := "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	e := p.send("POST", "/api/v1/evaluations", hello, http.Header{"Traceparent": {otel}}).evaluation()
	stored, err := p.store.Get(t.Context(), e.key())
	require.NoError(t, err)
	require.Contains(t, stored.Trace, "4bf92f3577b34da6a3ce929d0e0e4736", "the trace of the client goes on")
}
