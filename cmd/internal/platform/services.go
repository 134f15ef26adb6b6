package platform

import (
	"context"
	"errors"

	"github.com/crucible-eval/crucible/api"
	"github.com/crucible-eval/crucible/executor"
	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/pkg/httpkit"
	"github.com/crucible-eval/crucible/pkg/live"
	"github.com/crucible-eval/crucible/pkg/remote"
	"github.com/crucible-eval/crucible/pkg/service"
	"github.com/crucible-eval/crucible/pkg/task"
	"github.com/crucible-eval/crucible/storage"
	"github.com/crucible-eval/crucible/worker"
)

// Siblings are where the other services are.
type Siblings struct {
	StorageURL   string   `name:"storage-url" group:"Services" env:"CRUCIBLE_STORAGE_URL" default:"http://127.0.0.1:8083" help:"Address of the storage service."`
	ExecutorURLs []string `name:"executor-url" group:"Services" env:"CRUCIBLE_EXECUTOR_URLS" default:"http://127.0.0.1:8082" placeholder:"URL" help:"Address of an executor. May be repeated."`
}

// APIConfig is what crucible api needs.
type APIConfig struct {
	Listen string `group:"Access" env:"CRUCIBLE_LISTEN" default:"127.0.0.1:8080" help:"Where the API listens."`
	Log
	Queue
	Siblings
	StandIn
	Grants
	Door
	Keys
	Quota
	Token
	Receivers
	Stop
}

// errNoRedis: without a common Redis, services cannot work together.
var errNoRedis = errors.New("a Redis that all services share is needed: name it with --redis-url or CRUCIBLE_REDIS_URL (crucible up needs none)")

// far is what an API and a worker share: the storage and a Redis elsewhere.
type far struct {
	redis *task.Redis
	wires *live.Live
	store *remote.Store // changes are not announced
	blobs eval.Blobs
}

func (p *Platform) reach(ctx context.Context, queue Queue, siblings Siblings, token Token, rt *Runtime) (far, error) {
	var f far
	if queue.RedisURL == "" {
		return f, errNoRedis
	}
	var err error
	if f.redis, err = p.openRedis(ctx, queue, rt); err != nil {
		return f, err
	}
	f.wires = live.New(f.redis.Client(), rt.Logger)
	p.closeLater(f.wires.Close)
	secret := token.ServiceToken.Reveal()
	store, blobs := remote.NewStore(siblings.StorageURL, secret, nil), remote.NewBlobs(siblings.StorageURL, secret, nil)
	p.closeLater(store.Close)
	p.closeLater(blobs.Close)
	f.store, f.blobs = store, blobs
	p.fact("storage", "%s", siblings.StorageURL)
	for _, u := range siblings.ExecutorURLs {
		p.fact("executor", "%s", u)
	}
	return f, nil
}

// API builds the API alone. Storage, executors and Redis may be away when it
// starts; it answers 503 until they are there.
func API(ctx context.Context, cfg APIConfig, rt *Runtime) (_ *Platform, err error) {
	p := &Platform{rt: rt}
	defer p.abandon(ctx, &err)
	policy, err := cfg.policy()
	if err != nil {
		return nil, err
	}
	guard, err := cfg.guard()
	if err != nil {
		return nil, err
	}
	f, err := p.reach(ctx, cfg.Queue, cfg.Siblings, cfg.Token, rt)
	if err != nil {
		return nil, err
	}
	var executors []api.NamedExecutor
	for _, u := range cfg.ExecutorURLs {
		executors = append(executors, api.NamedExecutor{Name: u, Executor: remote.NewExecutor(u, cfg.ServiceToken.Reveal(), nil)})
	}
	listen, err := apiConfig(cfg.Listen, cfg.Door, cfg.Keys, cfg.Quota)
	if err != nil {
		return nil, err
	}
	queue := task.NewQueue(f.redis)
	front, err := p.newFront(cfg.StandIn, f.store, f.wires, queue, rt)
	if err != nil {
		return nil, err
	}
	door, err := api.New(listen, api.Deps{
		Store: front.Store, StandIn: front.standIn, Blobs: f.blobs, Queue: queue, Notices: f.wires, Output: f.wires, Roster: f.wires,
		Redis: f.redis, Logger: rt.Logger, Registry: rt.Registry, Version: rt.Version, Executors: executors, Policy: policy, Callbacks: guard,
		StorageInfo: storageInfo(func(ctx context.Context, project string) (storage.Description, error) {
			return remote.Info[storage.Description](ctx, f.store, project)
		}),
		Beside: front.lively(),
	})
	if err != nil {
		return nil, err
	}
	p.Group, p.URL = service.NewGroup(rt.Logger, front.services(door)...), door.URL
	return p, nil
}

// WorkerConfig is what crucible worker needs.
type WorkerConfig struct {
	Listen string `group:"Access" env:"CRUCIBLE_LISTEN" default:"127.0.0.1:8081" help:"Where health checks and metrics are."`
	Log
	Queue
	Siblings
	Work
	Receivers
	Sender
	Door
	Token
	Stop
}

// Worker builds a worker alone. It listens for health checks and metrics.
func Worker(ctx context.Context, cfg WorkerConfig, rt *Runtime) (_ *Platform, err error) {
	p := &Platform{rt: rt}
	defer p.abandon(ctx, &err)
	guard, err := cfg.guard()
	if err != nil {
		return nil, err
	}
	callbacks, err := cfg.callbacks(guard)
	if err != nil {
		return nil, err
	}
	f, err := p.reach(ctx, cfg.Queue, cfg.Siblings, cfg.Token, rt)
	if err != nil {
		return nil, err
	}
	var executors []worker.NamedExecutor
	for _, u := range cfg.ExecutorURLs {
		executors = append(executors, worker.NamedExecutor{Name: u, Executor: remote.NewExecutor(u, cfg.ServiceToken.Reveal(), nil)})
	}
	work, err := worker.New(workerConfig(cfg.Work, cfg.Stop, callbacks, rt), worker.Deps{
		Store: live.Announcing(f.store, f.wires), Blobs: f.blobs, Redis: f.redis, Live: f.wires, Logger: rt.Logger, Registry: rt.Registry, Executors: executors,
	})
	if err != nil {
		return nil, err
	}
	health, err := httpkit.New(httpkit.Options{
		Name: "worker", Listen: cfg.Listen, Logger: rt.Logger, Registry: rt.Registry, Version: rt.Version,
		// Nothing can be run here: there are only health and metrics.
		AllowInsecure: true, AllowedHosts: cfg.AllowedHosts, Parts: work.Parts(), Live: work.Live,
	})
	if err != nil {
		return nil, err
	}
	p.Group, p.URL = service.NewGroup(rt.Logger, health, work), health.URL
	return p, nil
}

// ExecutorConfig is what crucible executor needs.
type ExecutorConfig struct {
	Listen string `group:"Access" env:"CRUCIBLE_LISTEN" default:"127.0.0.1:8082" help:"Where workers reach it."`
	Log
	Sandbox
	Grants
	Door
	Token
	Stop
}

// Executor builds an executor alone.
func Executor(ctx context.Context, cfg ExecutorConfig, rt *Runtime) (_ *Platform, err error) {
	p := &Platform{rt: rt}
	defer p.abandon(ctx, &err)
	policy, err := cfg.policy()
	if err != nil {
		return nil, err
	}
	local, err := p.openExecutor(ctx, cfg.Sandbox, policy, rt)
	if err != nil {
		return nil, err
	}
	door, err := executor.New(executor.ServiceConfig{
		Listen: cfg.Listen, Tokens: secrets([]interface{ Reveal() string }{cfg.ServiceToken}),
		AllowInsecure: cfg.AllowInsecure, AllowedHosts: cfg.AllowedHosts,
	}, local, rt.Logger, rt.Registry)
	if err != nil {
		return nil, err
	}
	p.Group, p.URL = service.NewGroup(rt.Logger, door), door.URL
	return p, nil
}

// StorageConfig is what crucible storage needs.
type StorageConfig struct {
	Listen string `group:"Access" env:"CRUCIBLE_LISTEN" default:"127.0.0.1:8083" help:"Where the API and workers reach it."`
	Log
	Keep
	AutoMigrate bool `group:"Storage" env:"CRUCIBLE_AUTO_MIGRATE" help:"Bring a PostgreSQL database up to date at the start. Otherwise that is the work of crucible migrate."`
	Life
	Door
	Token
	Stop
}

// Storage builds the storage alone.
func Storage(ctx context.Context, cfg StorageConfig, rt *Runtime) (_ *Platform, err error) {
	p := &Platform{rt: rt}
	defer p.abandon(ctx, &err)
	backend, err := p.openStorage(ctx, cfg.Keep, cfg.Life, cfg.AutoMigrate, rt.Logger)
	if err != nil {
		return nil, err
	}
	sweeper, err := storage.NewSweeper(backend, storage.SweepConfig{}, rt.Logger, rt.Registry)
	if err != nil {
		return nil, err
	}
	door, err := storage.New(storage.ServiceConfig{
		Listen: cfg.Listen, Tokens: secrets([]interface{ Reveal() string }{cfg.ServiceToken}),
		AllowInsecure: cfg.AllowInsecure, AllowedHosts: cfg.AllowedHosts, Version: rt.Version, Live: sweeper.Live,
	}, backend, rt.Logger, rt.Registry)
	if err != nil {
		return nil, err
	}
	p.Group, p.URL = service.NewGroup(rt.Logger, door, sweeper), door.URL
	return p, nil
}
