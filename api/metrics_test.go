package api_test

import (
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/api"
	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/pkg/testkit"
)

// measuring makes the API count often.
func measuring(c *api.Config, _ *api.Deps) { c.MeasureEvery = 20 * time.Millisecond }

// metric is a sample as /metrics has it now; ok is false when it is not there.
func (p *platform) metric(series string) (value float64, ok bool) {
	p.t.Helper()
	m := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(series) + ` (\S+)$`).FindStringSubmatch(p.get("/metrics").Body)
	if m == nil {
		return 0, false
	}
	value, err := strconv.ParseFloat(m[1], 64)
	require.NoError(p.t, err)
	return value, true
}

// shows waits until a metric has the value.
func (p *platform) shows(series string, want float64) {
	p.t.Helper()
	testkit.Eventually(p.t, func() bool { got, ok := p.metric(series); return ok && got == want }, series+" is "+strconv.FormatFloat(want, 'g', -1, 64))
}

func TestTheBacklogMovesUnderLoadAndReturns(t *testing.T) {
	p := start(t, measuring)
	waiting := func(state string) string {
		return `crucible_backlog_evaluations{priority="default",state="` + state + `"}`
	}
	oldest := `crucible_backlog_oldest_seconds{priority="default"}`
	for _, state := range []string{"stored", "dispatched", "later", "running"} {
		p.shows(waiting(state), 0)
	}
	p.shows(oldest, 0)
	p.shows("crucible_backlog_clients", 0)

	first := p.post("/api/v1/evaluations", hello).evaluation()
	second := p.post("/api/v1/evaluations", hello).evaluation()
	p.shows(waiting("dispatched"), 2)
	p.shows(`crucible_queue_tasks{queue="default",state="pending"}`, 2)
	p.shows("crucible_backlog_clients", 1)
	p.shows(`crucible_queue_drift_evaluations{kind="missing"}`, 0)
	before, _ := p.metric(oldest)
	testkit.Eventually(t, func() bool { age, _ := p.metric(oldest); return age > before && age > 0 }, "the oldest grows older")

	l := p.claim(first.ID)
	p.shows(waiting("running"), 1)
	p.shows(waiting("dispatched"), 1)
	p.finish(l, accepted(""))
	p.run(second.ID, accepted(""))
	p.shows(waiting("dispatched"), 0)
	p.shows(waiting("running"), 0)
	p.shows(oldest, 0)
	p.shows("crucible_backlog_clients", 0)
	p.shows(`crucible_dead_letters{kind="invalid"}`, 0)
	p.run(p.post("/api/v1/evaluations", hello).evaluation().ID, broken("no"))
	p.shows(`crucible_dead_letters{kind="invalid"}`, 1)
	// Nobody has taken the tasks of this test's worker out of the queue.
	p.shows(`crucible_queue_drift_evaluations{kind="surplus"}`, 3)
}

func TestQueuesTellTheirLag(t *testing.T) {
	p := start(t)
	type queue struct {
		Name    string
		Pending int64
		Backlog *struct {
			Stored, Dispatched, Later, Running int64
			LagMS                              float64 `json:"lag_ms"`
		}
	}
	read := func() queue {
		var all struct{ Queues []queue }
		p.get("/api/v1/queues").decode(&all)
		return all.Queues[2]
	}
	require.Zero(t, read().Backlog.LagMS)
	id := p.post("/api/v1/evaluations", hello).evaluation().ID
	q := read()
	require.EqualValues(t, 1, q.Backlog.Dispatched+q.Backlog.Stored)
	require.Positive(t, q.Backlog.LagMS)
	l := p.claim(id)
	require.EqualValues(t, 1, read().Backlog.Running)
	require.Zero(t, read().Backlog.LagMS)
	p.finish(l, accepted(""))
	require.Zero(t, read().Backlog.Running)
}

func TestDriftBetweenStoreAndQueue(t *testing.T) {
	p := start(t, measuring)
	for range 3 {
		p.post("/api/v1/evaluations", hello)
	}
	missing := `crucible_queue_drift_evaluations{kind="missing"}`
	p.shows(`crucible_queue_tasks{queue="default",state="pending"}`, 3)
	p.shows(missing, 0)
	require.NoError(t, p.redis.Client().FlushAll(t.Context()).Err())
	p.shows(missing, 3)
	p.shows(`crucible_queue_drift_evaluations{kind="surplus"}`, 0)
	// What a reconciler does.
	due, err := p.store.Rewind(t.Context())
	require.NoError(t, err)
	require.Equal(t, 3, due)
	again, err := p.store.Due(t.Context(), eval.DueRequest{Limit: 10, Again: time.Minute})
	require.NoError(t, err)
	for _, d := range again {
		require.NoError(t, p.queue.Enqueue(t.Context(), d))
	}
	p.shows(missing, 0)
}

func TestLostWorkersAndExecutorsAreCounted(t *testing.T) {
	p := start(t, measuring)
	p.shows(`crucible_workers{state="working"}`, 0)
	w := eval.WorkerInfo{ID: "w1", Host: "h", Slots: 4, StartedAt: time.Now(), SeenAt: time.Now(), Running: []eval.RunningInfo{{ID: newID(), Language: "go", Attempt: 1, Since: time.Now()}}}
	require.NoError(t, p.live.Report(t.Context(), w, time.Hour))
	p.shows(`crucible_workers{state="working"}`, 1)
	p.shows("crucible_workers_slots", 4)
	p.shows("crucible_workers_taken_slots", 1)
	p.shows("crucible_workers_lost_total", 0)
	require.NoError(t, p.live.Report(t.Context(), w, time.Millisecond)) // it says no more
	p.shows(`crucible_workers{state="lost"}`, 1)
	p.shows("crucible_workers_lost_total", 1)
	p.shows("crucible_workers_slots", 0)
	require.NoError(t, p.live.Report(t.Context(), w, time.Hour))
	p.shows(`crucible_workers{state="lost"}`, 0)
	require.NoError(t, p.live.Leave(t.Context(), w.ID))
	p.shows(`crucible_workers{state="working"}`, 0)
	p.shows("crucible_workers_lost_total", 1)

	p.get("/api/v1/executors")
	p.shows(`crucible_executors{state="ready"}`, 1)
	p.shows("crucible_executors_lost_total", 0)
	p.exec.away(eval.Errorf(eval.KindUnavailable, "gone"))
	testkit.Eventually(t, func() bool { return strings.Contains(p.get("/api/v1/executors").Body, `"away"`) }, "the executor to be away")
	p.shows(`crucible_executors{state="away"}`, 1)
	p.shows("crucible_executors_lost_total", 1)
}

func TestNumbersThatCannotBeAskedForAreAbsent(t *testing.T) {
	broken := &brokenStore{}
	p := start(t, measuring, func(_ *api.Config, d *api.Deps) {
		broken.Store = d.Store
		d.Store = broken
	})
	p.shows("crucible_backlog_clients", 0)
	broken.cut(eval.Errorf(eval.KindUnavailable, "away"))
	testkit.Eventually(t, func() bool { _, there := p.metric("crucible_backlog_clients"); return !there }, "the backlog is not told")
	_, there := p.metric(`crucible_queue_drift_evaluations{kind="missing"}`)
	require.False(t, there)
	p.shows(`crucible_workers{state="working"}`, 0)
}
