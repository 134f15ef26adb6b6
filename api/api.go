// Package api is the door of Crucible: it accepts evaluations over HTTP,
// tells what became of them, and shows the platform.
//
// It keeps nothing itself: the store is the truth, the queue a fast path to
// the workers, and any number of APIs may run side by side.
package api

import (
	"cmp"
	"context"
	_ "embed" // for openapi.yaml
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/redis/go-redis/v9"

	"github.com/crucible-eval/crucible/api/internal/catalog"
	"github.com/crucible-eval/crucible/api/internal/live"
	"github.com/crucible-eval/crucible/api/internal/measure"
	"github.com/crucible-eval/crucible/api/internal/monitor"
	"github.com/crucible-eval/crucible/api/internal/page"
	"github.com/crucible-eval/crucible/api/internal/quota"
	"github.com/crucible-eval/crucible/api/internal/rest"
	"github.com/crucible-eval/crucible/pkg/egress"
	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/pkg/httpkit"
	"github.com/crucible-eval/crucible/pkg/service"
	"github.com/crucible-eval/crucible/pkg/task"
)

//go:embed openapi.yaml
var openapi []byte

// OpenAPI returns the contract of the API, as served at /openapi.yaml.
func OpenAPI() []byte { return openapi }

// Payload is the body of a callback, as JSON: an evaluation that has ended, as
// the API answers with it to its submission. Whoever puts the services together
// gives it to the worker, so that both show the same.
func Payload(e eval.Evaluation) ([]byte, error) { return json.Marshal(rest.Payload(e)) }

// NamedExecutor is an executor and the name it is shown by: its URL, or
// "local".
type NamedExecutor = catalog.Executor

// StoragePart is a place where data is kept, with its numbers as they are.
type StoragePart = rest.StoragePart

// Retention is how long a part keeps what has ended.
type Retention = rest.Retention

// Deps are what the API works with. Store and Queue are required. Without one
// of the others, what needs it answers that it is not here.
type Deps struct {
	Store     eval.Store // announces its changes on Notices
	Blobs     eval.Blobs // streams that are too large for a row
	Queue     eval.Queue
	Notices   eval.Notices // without it waiters are woken by polling
	Output    eval.OutputLog
	Roster    eval.Roster
	Executors []NamedExecutor // to ask what they offer; they run nothing for the API
	Redis     *task.Redis     // for the queues' numbers and /monitor
	// StandIn, when not nil, says that something accepts evaluations while the
	// storage is away, and returns why it cannot.
	StandIn func(context.Context) error
	// StorageInfo tells the numbers of the storage.
	StorageInfo func(context.Context) ([]StoragePart, error)
	Policy      eval.Policy // zero: eval.DefaultPolicy
	// Callbacks says which callback_urls are accepted. Nil: none.
	Callbacks *egress.Guard

	// Beside are what runs in the same process, for /livez, and Parts what that
	// needs, for /readyz.
	Beside []service.Lively
	Parts  []httpkit.Part

	Logger   *slog.Logger
	Registry *prometheus.Registry
	Version  string
}

// Service is the API as a service.
type Service struct {
	*service.Group
	server  *httpkit.Server
	routes  *rest.API
	monitor *monitor.Monitor
	beside  []service.Lively
}

// loopBound is how long a loop that is well goes without a beat at most: what
// each waits for ends after five seconds.
const loopBound = 30 * time.Second

// measureBound is loopBound for the measurer, which rests longer where
// counting is slow.
const measureBound = 5 * time.Minute

// New returns an API that is ready to start.
func New(cfg Config, d Deps) (*Service, error) {
	cfg = cfg.withDefaults()
	if d.Store == nil || d.Queue == nil {
		return nil, errors.New("api: a store and a queue are required")
	}
	keys, err := cfg.tokens()
	if err != nil {
		return nil, err
	}
	log := cmp.Or(d.Logger, slog.New(slog.DiscardHandler))
	if d.Registry == nil {
		d.Registry = prometheus.NewRegistry()
	}
	if d.Policy.Max == (eval.Limits{}) {
		d.Policy = eval.DefaultPolicy()
	}
	s := &Service{beside: d.Beside}
	hub := live.NewHub(d.Store, d.Notices, eval.DefaultProject, log)
	known := catalog.New(d.Executors)
	server, err := httpkit.New(httpkit.Options{
		Name: "api", Listen: cfg.Listen, Logger: log, Registry: d.Registry, BodyLimit: cfg.BodyLimit,
		Tokens: keys, AllowInsecure: cfg.AllowInsecure, AllowedHosts: cfg.AllowedHosts,
		Parts: parts(d), Live: s.Live,
		Version: d.Version,
	})
	if err != nil {
		return nil, err
	}
	metrics, err := rest.NewMetrics(d.Registry)
	if err != nil {
		return nil, fmt.Errorf("api metrics: %w", err)
	}
	sources := measure.Sources{Store: d.Store, Roster: d.Roster, Executors: known}
	var shared *redis.Client // of several replicas
	if d.Redis != nil && !d.Redis.Embedded() {
		shared = d.Redis.Client()
	}
	gate, err := quota.New(quota.Options{Config: cfg.Quota, Source: d.Store, Redis: shared, Logger: log, Registry: d.Registry})
	if err != nil {
		return nil, fmt.Errorf("api metrics: %w", err)
	}
	o := rest.Options{
		Store: d.Store, Blobs: d.Blobs, Queue: d.Queue, Output: d.Output, Roster: d.Roster, Storage: d.StorageInfo,
		Hub: hub, Catalog: known, Policy: d.Policy, Quota: gate, Log: log, Metrics: metrics, Version: d.Version, Draining: server.Draining(), NewWork: server.NewWork,
		BatchBodyLimit: cfg.BatchBodyLimit, MaxWait: cfg.MaxWait, MaxWaiters: cfg.MaxWaiters, MaxStreams: cfg.MaxStreams,
	}
	if d.Callbacks != nil {
		o.CheckCallback = d.Callbacks.Check
	}
	if d.Redis != nil {
		inspector := task.NewInspector(d.Redis)
		o.Queues, sources.Queues = inspector, inspector
		if err := d.Registry.Register(inspector); err != nil {
			return nil, fmt.Errorf("api metrics: %w", err)
		}
	}
	measurer, err := measure.New(cfg.MeasureEvery, sources, d.Registry)
	if err != nil {
		return nil, fmt.Errorf("api metrics: %w", err)
	}
	routes := rest.New(o)
	routes.Routes(server.Echo())
	pages, err := page.New(routes, openapi, d.Redis != nil)
	if err != nil {
		return nil, err
	}
	pages.Routes(server.Echo())
	s.server, s.routes = server, routes
	if d.Redis != nil {
		s.monitor = monitor.New(d.Redis.ConnOpt(), cfg.MonitorReadOnly)
		s.monitor.Routes(server.Echo())
	}
	s.Group = service.NewGroup(log, service.NewLoop("catalog", loopBound, known.Run), service.NewLoop("live", loopBound, hub.Run),
		service.NewLoop("measurer", measureBound, measurer.Run), service.NewLoop("quota", loopBound, gate.Run), server)
	return s, nil
}

// parts are what the API needs. It accepts evaluations without the queue: they
// run when that is back.
func parts(d Deps) []httpkit.Part {
	all := []httpkit.Part{{Name: "storage", Optional: d.StandIn != nil, Try: func(ctx context.Context) error {
		_, err := d.Store.Feed(ctx, eval.DefaultProject, -1, 1)
		return err
	}}}
	if d.StandIn != nil {
		all = append(all, httpkit.Part{Name: "fallback", Try: d.StandIn})
	}
	if d.Redis != nil {
		all = append(all, httpkit.Part{Name: "queue", Try: d.Redis.Ready, Optional: true})
	}
	return append(all, d.Parts...)
}

// Live implements service.Lively: it tells of the loops of the API and of what
// else runs in this process.
func (s *Service) Live() error {
	errs := []error{s.Group.Live()}
	for _, l := range s.beside {
		errs = append(errs, l.Live())
	}
	return errors.Join(errs...)
}

// Name implements service.Service.
func (s *Service) Name() string { return "api" }

// URL is where to reach the API from this machine, once started.
func (s *Service) URL() string { return s.server.URL() }

// Addr is the address that it listens on, once started.
func (s *Service) Addr() string { return s.server.Addr() }

// Stop implements service.Service.
func (s *Service) Stop(ctx context.Context) error {
	err := s.Group.Stop(ctx)
	s.routes.Wait()
	if s.monitor != nil {
		err = errors.Join(err, s.monitor.Close())
	}
	return err
}
