// Package measure counts, every few seconds, what waits in the store and in
// the queue and who is there to work on it, and offers the numbers to
// Prometheus. They are asked for here and not at each scrape, so that a
// scraper cannot load the database; and where something could not be asked,
// its numbers are absent rather than old.
package measure

import (
	"context"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/crucible-eval/crucible/api/internal/catalog"
	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/pkg/service"
	"github.com/crucible-eval/crucible/pkg/task"
)

const (
	// share is the most of the time that counting may take: a store in which
	// it is slow is asked less often.
	share = 20
	// patience bounds each question.
	patience = 5 * time.Second
	// fresh is how old a number may be, in units of the time between two.
	fresh = 3
)

// Queues has the numbers of the queues: a *task.Inspector.
type Queues interface {
	Queues(ctx context.Context) ([]task.QueueInfo, error)
}

// Roster has the workers: an eval.Roster.
type Roster interface {
	Workers(ctx context.Context) ([]eval.WorkerInfo, error)
}

// Sources are whom the Measurer asks. Queues and Roster may be nil.
type Sources struct {
	Store     eval.Scheduler
	Queues    Queues
	Roster    Roster
	Executors *catalog.Catalog
}

// Measurer is a loop, and a prometheus.Collector of what it saw last.
type Measurer struct {
	every   time.Duration // between two measurements, at least
	sources Sources

	lostWorkers   prometheus.Counter
	lostExecutors prometheus.Counter

	mu        sync.Mutex
	until     time.Time // what is below is old after it
	backlog   *eval.Backlog
	took      time.Time // when the backlog was taken, by our clock
	drift     *drift
	workers   []eval.WorkerInfo // nil: not known
	executors []catalog.State
	alive     map[string]bool // workers that were there at the last look
	reached   map[string]bool // executors that answered at the last look
}

// drift is where the store and the queue do not agree.
type drift struct {
	missing int64 // evaluations that were handed to the queue and are not in it
	surplus int64 // tasks for evaluations that do not wait
}

// New registers a Measurer that has not measured yet. every is the time
// between two measurements, at least.
func New(every time.Duration, s Sources, registry *prometheus.Registry) (*Measurer, error) {
	m := &Measurer{
		every: every, sources: s, alive: map[string]bool{}, reached: map[string]bool{},
		lostWorkers: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "crucible_workers_lost_total", Help: "Workers that fell silent without leaving.",
		}),
		lostExecutors: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "crucible_executors_lost_total", Help: "Times that an executor which had answered did not any more.",
		}),
	}
	for _, c := range []prometheus.Collector{m, m.lostWorkers, m.lostExecutors} {
		if err := registry.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// Run measures until ctx ends.
func (m *Measurer) Run(ctx context.Context) error {
	for {
		began := time.Now()
		m.measure(ctx)
		service.Beat(ctx)
		pause := max(m.every, share*time.Since(began))
		m.mu.Lock()
		m.until = time.Now().Add(fresh * pause)
		m.mu.Unlock()
		timer := time.NewTimer(pause)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
		}
	}
}

// measure asks everybody once.
func (m *Measurer) measure(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var (
		backlog *eval.Backlog
		queues  []task.QueueInfo
		workers []eval.WorkerInfo
	)
	if b, err := m.sources.Store.Backlog(ctx); err == nil {
		backlog = &b
	}
	took := time.Now()
	if m.sources.Queues != nil {
		queues, _ = m.sources.Queues.Queues(ctx) // nil when it is away, which crucible_queue_up says
	}
	if m.sources.Roster != nil {
		workers, _ = m.sources.Roster.Workers(ctx) // the same Redis
	}
	executors := m.sources.Executors.Last()

	m.mu.Lock()
	defer m.mu.Unlock()
	m.backlog, m.took, m.workers, m.executors = backlog, took, workers, executors
	m.drift = nil
	if backlog != nil && queues != nil {
		d := driftOf(backlog.Total(), queues)
		m.drift = &d
	}
	m.noteWorkers(workers)
	m.noteExecutors(executors)
}

// driftOf compares the store with the queue. Both move while they are read, so
// that a busy platform shows a few for a moment. A task in a worker's hand
// whose evaluation does not run is about to be claimed.
func driftOf(store eval.Waiting, queues []task.QueueInfo) drift {
	var pending, active int64
	for _, q := range queues {
		pending += q.Pending
		active += q.Active
	}
	return drift{
		missing: max(0, store.Dispatched-pending-max(0, active-store.Running)),
		surplus: max(0, pending-store.Dispatched),
	}
}

// noteWorkers counts those that were there and are lost now.
func (m *Measurer) noteWorkers(workers []eval.WorkerInfo) {
	if workers == nil {
		return
	}
	alive := map[string]bool{}
	for _, w := range workers {
		switch {
		case !w.Lost:
			alive[w.ID] = true
		case m.alive[w.ID]:
			m.lostWorkers.Inc()
		}
	}
	m.alive = alive
}

// noteExecutors counts those that answered and do not now.
func (m *Measurer) noteExecutors(states []catalog.State) {
	for _, s := range states {
		away := s.Word() == catalog.Away
		if away && m.reached[s.Name] {
			m.lostExecutors.Inc()
		}
		m.reached[s.Name] = !away
	}
}

var (
	backlogDesc = prometheus.NewDesc("crucible_backlog_evaluations",
		"Evaluations that have not ended, by priority and state: stored (due, and waiting in the store), dispatched (handed to the queue), later (their time has not come) and running.",
		[]string{"priority", "state"}, nil)
	oldestDesc = prometheus.NewDesc("crucible_backlog_oldest_seconds",
		"How long the evaluation has waited that has waited longest, by priority; 0: none waits.", []string{"priority"}, nil)
	clientsDesc = prometheus.NewDesc("crucible_backlog_clients", "Clients of whom something waits that is due.", nil, nil)
	deadDesc    = prometheus.NewDesc("crucible_dead_letters", "Evaluations that the platform gave up on and that nobody has retried or deleted, by the kind of the failure.", []string{"kind"}, nil)
	driftDesc   = prometheus.NewDesc("crucible_queue_drift_evaluations",
		"Where store and queue do not agree: missing (handed to the queue and not in it; the reconciler enqueues it again) and surplus (tasks whose evaluation does not wait; a worker drops them).",
		[]string{"kind"}, nil)
	workersDesc   = prometheus.NewDesc("crucible_workers", "Workers, by state: working, draining, lost.", []string{"state"}, nil)
	slotsDesc     = prometheus.NewDesc("crucible_workers_slots", "Evaluations that the workers alive can have in hand at once.", nil, nil)
	takenDesc     = prometheus.NewDesc("crucible_workers_taken_slots", "Evaluations that the workers alive have in hand.", nil, nil)
	executorsDesc = prometheus.NewDesc("crucible_executors", "Executors, by state: ready, draining, troubled (answers, and takes on no runs), away.", []string{"state"}, nil)
)

// Describe implements prometheus.Collector.
func (m *Measurer) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{backlogDesc, oldestDesc, clientsDesc, deadDesc, driftDesc, workersDesc, slotsDesc, takenDesc, executorsDesc} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (m *Measurer) Collect(ch chan<- prometheus.Metric) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if time.Now().After(m.until) {
		return
	}
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	if m.backlog != nil {
		m.collectBacklog(gauge)
	}
	if m.drift != nil {
		gauge(driftDesc, float64(m.drift.missing), "missing")
		gauge(driftDesc, float64(m.drift.surplus), "surplus")
	}
	if m.workers != nil {
		states, slots, taken := map[string]int{"working": 0, "draining": 0, "lost": 0}, 0, 0
		for _, w := range m.workers {
			states[w.State()]++
			if !w.Lost {
				slots += w.Slots
				taken += len(w.Running)
			}
		}
		for state, n := range states {
			gauge(workersDesc, float64(n), state)
		}
		gauge(slotsDesc, float64(slots))
		gauge(takenDesc, float64(taken))
	}
	states := map[string]int{catalog.Ready: 0, catalog.Draining: 0, catalog.Troubled: 0, catalog.Away: 0}
	for _, s := range m.executors {
		states[s.Word()]++
	}
	for state, n := range states {
		gauge(executorsDesc, float64(n), state)
	}
}

func (m *Measurer) collectBacklog(gauge func(*prometheus.Desc, float64, ...string)) {
	gauge(clientsDesc, float64(m.backlog.Clients))
	for _, k := range eval.Kinds() { // one that has gone is 0, not absent: an alert must end
		gauge(deadDesc, float64(m.backlog.DeadLetters[k.Kind]), string(k.Kind))
	}
	for _, w := range m.backlog.Priorities {
		p := string(w.Priority)
		gauge(backlogDesc, float64(w.Stored), p, "stored")
		gauge(backlogDesc, float64(w.Dispatched), p, "dispatched")
		gauge(backlogDesc, float64(w.Later), p, "later")
		gauge(backlogDesc, float64(w.Running), p, "running")
		age := time.Duration(0)
		if w.Since != nil { // it has waited on since it was counted
			age = m.backlog.At.Sub(*w.Since) + time.Since(m.took)
		}
		gauge(oldestDesc, max(0, age.Seconds()), p)
	}
}
