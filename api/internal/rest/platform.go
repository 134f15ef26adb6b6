package rest

import (
	"context"
	"net/http"
	"slices"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/crucible-eval/crucible/api/internal/catalog"
	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/pkg/httpkit"
	"github.com/crucible-eval/crucible/pkg/task"
)

// QueueList has the queues, the most urgent first.
type QueueList struct {
	Queues []Queue `json:"queues"`
}

// Queue is a queue in Redis, and what the store has for it.
type Queue struct {
	task.QueueInfo
	Backlog *Backlog `json:"backlog,omitempty"` // nil: the store could not be asked
}

// Backlog counts the evaluations of a priority that have not ended.
type Backlog struct {
	Stored     int64   `json:"stored"`     // due, and not handed to the queue yet
	Dispatched int64   `json:"dispatched"` // handed to the queue, and not claimed yet
	Later      int64   `json:"later"`      // until run_at, or the next try
	Running    int64   `json:"running"`
	LagMS      float64 `json:"lag_ms"` // how long the one has waited that has waited longest; 0: none waits
}

// readQueues asks the queue for its numbers and the store for its own.
func (a *API) readQueues(ctx context.Context) ([]Queue, error) {
	all, err := a.Queues.Queues(ctx)
	if err != nil {
		return nil, err
	}
	backlog, err := a.Store.Backlog(ctx)
	queues := make([]Queue, len(all))
	for i, q := range all {
		queues[i].QueueInfo = q
		if err == nil {
			queues[i].Backlog = backlogOf(backlog, eval.Priority(q.Name))
		}
	}
	return queues, nil
}

func backlogOf(b eval.Backlog, p eval.Priority) *Backlog {
	for _, w := range b.Priorities {
		if w.Priority != p {
			continue
		}
		v := &Backlog{Stored: w.Stored, Dispatched: w.Dispatched, Later: w.Later, Running: w.Running}
		if w.Since != nil {
			v.LagMS = max(0, millis(b.At.Sub(*w.Since)))
		}
		return v
	}
	return nil
}

func noQueues() error {
	return eval.Errorf(eval.KindUnavailable, "this server was started without a Redis, so that it has no queues to show")
}

func (a *API) queues(c echo.Context) error {
	if err := noParams(c); err != nil {
		return err
	}
	if a.Queues == nil {
		return noQueues()
	}
	all, err := a.readQueues(c.Request().Context())
	if err != nil {
		return err
	}
	return c.JSON(http.StatusOK, QueueList{all})
}

func (a *API) pauseQueue(c echo.Context) error {
	return a.changeQueue(c, "paused", func(ctx context.Context, q string) error { return a.Queues.Pause(ctx, q) })
}

func (a *API) resumeQueue(c echo.Context) error {
	return a.changeQueue(c, "resumed", func(ctx context.Context, q string) error { return a.Queues.Resume(ctx, q) })
}

// changeQueue changes a queue and answers with its numbers after that.
func (a *API) changeQueue(c echo.Context, what string, change func(context.Context, string) error) error {
	if err := noParams(c); err != nil {
		return err
	}
	if a.Queues == nil {
		return noQueues()
	}
	ctx, name := c.Request().Context(), c.Param("name")
	if !eval.Priority(name).Valid() {
		return eval.Errorf(eval.KindNotFound, "there is no queue %q: there are %s", clip(name), listed(eval.Priorities()))
	}
	if err := change(ctx, name); err != nil {
		return err
	}
	a.Log.Info("queue "+what, "queue", name)
	all, err := a.readQueues(ctx)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(all, func(q Queue) bool { return q.Name == name })
	if i < 0 {
		return eval.Errorf(eval.KindNotFound, "there is no queue %q", name)
	}
	return c.JSON(http.StatusOK, all[i])
}

// WorkerList has the workers alive.
type WorkerList struct {
	Workers []eval.WorkerInfo `json:"workers"`
}

func (a *API) workers(c echo.Context) error {
	if err := noParams(c); err != nil {
		return err
	}
	all, err := a.Workers(c.Request().Context())
	if err != nil {
		return err
	}
	return c.JSON(http.StatusOK, WorkerList{all})
}

// Workers returns the workers alive, with lists that are never nil.
func (a *API) Workers(ctx context.Context) ([]eval.WorkerInfo, error) {
	if a.Roster == nil {
		return nil, eval.Errorf(eval.KindUnavailable, "this server was started without a Redis, in which workers are listed")
	}
	all, err := a.Roster.Workers(ctx)
	if err != nil {
		return nil, err
	}
	for i := range all {
		all[i].Running = append([]eval.RunningInfo{}, all[i].Running...)
		all[i].Executors = append([]eval.ExecutorContact{}, all[i].Executors...)
	}
	return append([]eval.WorkerInfo{}, all...), nil
}

// ExecutorList has the executors that this server was told of.
type ExecutorList struct {
	Executors []Executor `json:"executors"`
}

// Executor is an executor as it answered now, or why it did not.
type Executor struct {
	Name      string `json:"name"`  // its URL, or local
	State     string `json:"state"` // ready, draining, troubled or away
	Reachable bool   `json:"reachable"`
	Problem   string `json:"problem,omitempty"` // why it did not answer, or takes on no runs
	Host      string `json:"host,omitempty"`    // as it calls itself
	Version   string `json:"version,omitempty"`
	eval.Load
	Running   []eval.RunningInfo `json:"running"`           // the runs under way, the oldest first
	SeenAt    *time.Time         `json:"seen_at,omitempty"` // when it answered last; absent: never
	Isolation *eval.Isolation    `json:"isolation,omitempty"`
	Languages []string           `json:"languages"` // those available, by id
}

func viewExecutor(s catalog.State) Executor {
	v := Executor{Name: s.Name, State: s.Word(), Problem: s.Problem, Running: []eval.RunningInfo{}, SeenAt: s.SeenAt, Languages: []string{}}
	if st := s.Status; st != nil {
		v.Reachable, v.Host, v.Version = true, st.Name, st.Version
		v.Load, v.Isolation, v.Problem = st.Load, &st.Isolation, st.Problem
		v.Running = append(v.Running, st.Running...)
		for _, l := range st.Languages {
			if l.Available {
				v.Languages = append(v.Languages, l.ID)
			}
		}
	}
	return v
}

func (a *API) executors(c echo.Context) error {
	if err := noParams(c); err != nil {
		return err
	}
	out := ExecutorList{Executors: []Executor{}}
	for _, s := range a.Catalog.States(c.Request().Context()) {
		out.Executors = append(out.Executors, viewExecutor(s))
	}
	return c.JSON(http.StatusOK, out)
}

// LanguageList has the languages of all executors.
type LanguageList struct {
	Languages []catalog.Language        `json:"languages"`
	Problems  []catalog.LanguageProblem `json:"problems,omitempty"`
}

func (a *API) languages(c echo.Context) error {
	if err := noParams(c); err != nil {
		return err
	}
	all, ok := a.Catalog.Languages()
	if !ok || slices.ContainsFunc(all, func(l catalog.Language) bool { return l.Checking }) {
		a.Catalog.States(c.Request().Context())
		if all, ok = a.Catalog.Languages(); !ok {
			return eval.Errorf(eval.KindUnavailable, "no executor has been reached yet; GET /api/v1/executors says why")
		}
	}
	return c.JSON(http.StatusOK, LanguageList{append([]catalog.Language{}, all...), a.Catalog.LanguageProblems()})
}

// IsolationReport says how well programs are isolated: as well as at the
// weakest executor.
type IsolationReport struct {
	Level     string              `json:"level"`
	Executors []ExecutorIsolation `json:"executors"`
}

// ExecutorIsolation is what one executor enforces.
type ExecutorIsolation struct {
	Name string `json:"name"`
	eval.Isolation
}

func (a *API) isolation(c echo.Context) error {
	if err := noParams(c); err != nil {
		return err
	}
	report, ok := Isolation(a.Catalog.States(c.Request().Context()))
	if !ok {
		return eval.Errorf(eval.KindUnavailable, "no executor can be reached; GET /api/v1/executors says why")
	}
	return c.JSON(http.StatusOK, report)
}

// Isolation summarizes the executors that answered; ok is false when none did.
func Isolation(states []catalog.State) (report IsolationReport, ok bool) {
	levels := eval.IsolationLevels()
	weakest := -1
	for _, s := range states {
		if s.Status == nil {
			continue
		}
		report.Executors = append(report.Executors, ExecutorIsolation{s.Name, s.Status.Isolation})
		rank := slices.Index(levels, s.Status.Isolation.Level)
		if rank < 0 {
			rank = len(levels) - 1 // what is not known is not trusted
		}
		weakest = max(weakest, rank)
	}
	if weakest < 0 {
		return report, false
	}
	report.Level = levels[weakest]
	return report, true
}

// Stats are the numbers of the platform.
type Stats struct {
	eval.Stats
	Callbacks eval.CallbackStats `json:"callbacks"`
	Version   string             `json:"version"`
	StartedAt time.Time          `json:"started_at"` // of this server
	Now       time.Time          `json:"now"`
	Waiters   int64              `json:"waiters"` // requests with ?wait= open here
	Streams   int64              `json:"streams"` // event streams open here
}

func (a *API) stats(c echo.Context) error {
	if err := noParams(c); err != nil {
		return err
	}
	s, err := a.Store.Stats(c.Request().Context(), eval.DefaultProject)
	if err != nil {
		return err
	}
	callbacks, err := a.Store.CountCallbacks(c.Request().Context(), eval.DefaultProject)
	if err != nil {
		return err
	}
	return c.JSON(http.StatusOK, Stats{s, callbacks, a.Version, a.began.UTC(), time.Now().UTC(), a.waiting.Load(), a.streams.Load()})
}

// RetryPolicy is a row of the table of retry policies.
type RetryPolicy struct {
	Name   string  `json:"name"`
	Tries  int     `json:"tries"`
	BaseMS int64   `json:"base_ms"`
	Factor float64 `json:"factor"`
	CapMS  int64   `json:"cap_ms"`
	Jitter bool    `json:"jitter"`
}

// KindRow is a row of the table of kinds.
type KindRow struct {
	Kind   eval.Kind  `json:"kind"`
	Status int        `json:"status"` // of HTTP
	Title  string     `json:"title"`
	Retry  eval.Retry `json:"retry"`
	Means  string     `json:"means"` // retry, in words
	Do     string     `json:"do"`    // what people can do
}

// RetryPolicies has the retry policies that a request may name, and what each
// kind of failure leads to.
type RetryPolicies struct {
	RetryPolicies []RetryPolicy `json:"retry_policies"`
	Kinds         []KindRow     `json:"kinds"`
}

func viewPolicy(p eval.RetryPolicy) RetryPolicy {
	return RetryPolicy{p.Name, p.Tries, p.Base.Milliseconds(), p.Factor, p.Cap.Milliseconds(), p.Jitter}
}

func (a *API) retryPolicies(c echo.Context) error {
	if err := noParams(c); err != nil {
		return err
	}
	var out RetryPolicies
	for _, p := range eval.RetryPolicies() {
		out.RetryPolicies = append(out.RetryPolicies, viewPolicy(p))
	}
	for _, k := range eval.Kinds() {
		out.Kinds = append(out.Kinds, KindRow{k.Kind, k.Status, k.Title, k.Retry, k.Retry.Meaning(), k.Do})
	}
	return c.JSON(http.StatusOK, out)
}

// Granted says what this server grants.
type Granted struct {
	Default           eval.Limits `json:"default"`
	Min               eval.Limits `json:"min"`
	Max               eval.Limits `json:"max"`
	MaxProgramBytes   int64       `json:"max_program_bytes"`
	MaxTests          int         `json:"max_tests"`
	MaxFiles          int         `json:"max_files"`
	MaxTestsWallMS    int64       `json:"max_tests_wall_ms"`
	MaxArtifacts      int         `json:"max_artifacts"`
	MaxArtifactBytes  int64       `json:"max_artifact_bytes"`
	MaxArtifactsBytes int64       `json:"max_artifacts_bytes"`
	MaxBatch          int         `json:"max_batch"`
	MaxWaitMS         int64       `json:"max_wait_ms"`
	MaxRunAheadHours  float64     `json:"max_run_ahead_hours"`

	// Client is where the client stands that asks, and Queue all together;
	// absent while the store cannot be asked.
	Client *ClientLimits `json:"client,omitempty"`
	Queue  *QueueLimits  `json:"queue,omitempty"`
}

// ClientLimits are what one client may submit. Limits that are absent are not there.
type ClientLimits struct {
	Name      string  `json:"name"` // "" where there are no keys
	Rate      float64 `json:"rate_per_second,omitempty"`
	Burst     int     `json:"burst,omitempty"`
	MaxQueued int64   `json:"max_queued,omitempty"`
	Queued    int64   `json:"queued"`
	Running   int64   `json:"running"`
}

// QueueLimits are those of all clients together.
type QueueLimits struct {
	MaxQueued int64 `json:"max_queued,omitempty"`
	Queued    int64 `json:"queued"`
}

func (a *API) limits(c echo.Context) error {
	if err := noParams(c); err != nil {
		return err
	}
	p := a.Policy
	out := Granted{
		Default: p.Default, Min: p.Min, Max: p.Max,
		MaxProgramBytes: p.MaxProgramBytes, MaxTests: p.MaxTests, MaxFiles: p.MaxFiles, MaxTestsWallMS: p.MaxTestsWall.Milliseconds(),
		MaxArtifacts: p.MaxArtifacts, MaxArtifactBytes: p.MaxArtifactBytes, MaxArtifactsBytes: p.MaxArtifactsBytes,
		MaxBatch: maxBatch, MaxWaitMS: a.MaxWait.Milliseconds(), MaxRunAheadHours: p.MaxRunAhead.Hours(),
	}
	name := httpkit.Client(c)
	if s, err := a.Quota.State(c.Request().Context(), name); err == nil {
		out.Client = &ClientLimits{name, s.Rate, s.Burst, s.Limits.Queued, s.Now.Queued, s.Now.Running}
		out.Queue = &QueueLimits{s.MaxQueued, s.AllQueued}
	}
	return c.JSON(http.StatusOK, out)
}

// StorageReport says where data is kept.
type StorageReport struct {
	Parts []StoragePart `json:"parts"`
}

func (a *API) storage(c echo.Context) error {
	if err := noParams(c); err != nil {
		return err
	}
	if a.Storage == nil {
		return eval.Errorf(eval.KindNotFound, "this server does not know the numbers of its storage: ask the storage service itself, at /v1/info")
	}
	parts, err := a.Storage(c.Request().Context())
	if err != nil {
		return err
	}
	return c.JSON(http.StatusOK, StorageReport{append([]StoragePart{}, parts...)})
}
