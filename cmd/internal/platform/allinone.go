package platform

import (
	"context"
	"fmt"

	"github.com/crucible-eval/crucible/api"
	"github.com/crucible-eval/crucible/executor"
	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/pkg/httpkit"
	"github.com/crucible-eval/crucible/pkg/live"
	"github.com/crucible-eval/crucible/pkg/service"
	"github.com/crucible-eval/crucible/pkg/task"
	"github.com/crucible-eval/crucible/storage"
	"github.com/crucible-eval/crucible/worker"
)

// AllInOneConfig is what crucible up needs.
type AllInOneConfig struct {
	Listen string `group:"Access" env:"CRUCIBLE_LISTEN" default:"127.0.0.1:8080" help:"Where the API listens. Port 0 takes a free one."`
	Log
	Queue
	Keep
	StandIn
	Door
	Keys
	Quota
	Sandbox
	Grants
	Life
	Work
	Receivers
	Sender
	Stop
}

// AllInOne builds everything in this process: the API listens, the rest are
// calls. It is ready to start.
func AllInOne(ctx context.Context, cfg AllInOneConfig, rt *Runtime) (_ *Platform, err error) {
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
	callbacks, err := cfg.callbacks(guard)
	if err != nil {
		return nil, err
	}
	backend, err := p.openStorage(ctx, cfg.Keep, cfg.Life, true, rt.Logger)
	if err != nil {
		return nil, err
	}
	redis, err := p.openRedis(ctx, cfg.Queue, rt)
	if err != nil {
		return nil, err
	}
	local, err := p.openExecutor(ctx, cfg.Sandbox, policy, rt)
	if err != nil {
		return nil, err
	}
	wires := live.New(redis.Client(), rt.Logger)
	p.closeLater(wires.Close)
	sweeper, err := storage.NewSweeper(backend, storage.SweepConfig{}, rt.Logger, rt.Registry)
	if err != nil {
		return nil, err
	}
	queue := task.NewQueue(redis)
	front, err := p.newFront(cfg.StandIn, backend.Store, wires, queue, rt)
	if err != nil {
		return nil, err
	}

	work, err := worker.New(workerConfig(cfg.Work, cfg.Stop, callbacks, rt), worker.Deps{
		Store: live.Announcing(backend.Store, wires), Blobs: backend.Blobs, Redis: redis, Live: wires, Logger: rt.Logger, Registry: rt.Registry,
		Executors: []worker.NamedExecutor{{Name: "local", Executor: local}},
	})
	if err != nil {
		return nil, err
	}
	listen, err := apiConfig(cfg.Listen, cfg.Door, cfg.Keys, cfg.Quota)
	if err != nil {
		return nil, err
	}
	door, err := api.New(listen, api.Deps{
		Store: front.Store, StandIn: front.standIn, Blobs: backend.Blobs, Queue: queue, Notices: wires, Output: wires, Roster: wires,
		Redis: redis, StorageInfo: storageInfo(backend.Describe), Logger: rt.Logger, Registry: rt.Registry, Version: rt.Version,
		Executors: []api.NamedExecutor{{Name: "local", Executor: local}}, Policy: policy, Callbacks: guard,
		Beside: append(front.lively(), work, local, sweeper),
		// While no sandbox holds, evaluations are accepted and wait.
		Parts: []httpkit.Part{{Name: "sandbox", Try: local.Ready, Optional: true}},
	})
	if err != nil {
		return nil, err
	}
	// The API starts first, and so stops last: what ends while the worker drains can be read.
	p.Group = service.NewGroup(rt.Logger, front.services(door, work, sweeper)...)
	p.URL = door.URL
	return p, nil
}

func (p *Platform) openRedis(ctx context.Context, cfg Queue, rt *Runtime) (*task.Redis, error) {
	redis, err := task.Open(ctx, task.RedisConfig{URL: cfg.RedisURL.Reveal()}, rt.Logger)
	if err != nil {
		return nil, err
	}
	p.closeLater(redis.Close)
	if redis.Embedded() {
		p.fact("queue", "in this process")
	} else {
		p.fact("queue", "Redis at %s", redis.Addr())
	}
	return redis, nil
}

func (p *Platform) openExecutor(ctx context.Context, cfg Sandbox, policy eval.Policy, rt *Runtime) (*executor.Local, error) {
	local, err := executor.Open(ctx, executorConfig(cfg, policy, rt), rt.Logger, rt.Registry)
	if err != nil {
		return nil, err
	}
	p.closeLater(local.Close)
	p.Reload = local.Reload
	status, err := local.Status(ctx)
	if err != nil {
		return nil, err
	}
	p.fact("executor", "%d slots, isolation %s", status.Slots, status.Isolation.Level)
	return local, nil
}

func executorConfig(cfg Sandbox, policy eval.Policy, rt *Runtime) executor.Config {
	c := cfg.Executor()
	c.Version, c.Policy = rt.Version, &policy
	return c
}

func workerConfig(cfg Work, stop Stop, callbacks *worker.Callbacks, rt *Runtime) worker.Config {
	return worker.Config{
		Version: rt.Version, Concurrency: cfg.Concurrency, Lease: cfg.Lease, Beat: cfg.Beat,
		Reconcile: cfg.ReconcileEvery, Again: cfg.Again, Window: cfg.Window, Drain: stop.DrainTimeout,
		Callbacks: callbacks,
	}
}

func apiConfig(listen string, door Door, keys Keys, quota Quota) (api.Config, error) {
	limits, err := quota.Config()
	return api.Config{
		Quota:  limits,
		Listen: listen, APIKeys: secrets(keys.APIKeys), MonitorReadOnly: keys.MonitorReadOnly,
		AllowInsecure: door.AllowInsecure, AllowedHosts: door.AllowedHosts,
	}, err
}

// storageInfo tells the numbers of a storage, which describe asks it for.
func storageInfo(describe func(context.Context, string) (storage.Description, error)) func(context.Context) ([]api.StoragePart, error) {
	return func(ctx context.Context) ([]api.StoragePart, error) {
		d, err := describe(ctx, eval.DefaultProject)
		if err != nil {
			return nil, fmt.Errorf("describe the storage: %w", err)
		}
		var rows int64
		for _, n := range d.Stats.Statuses {
			rows += n
		}
		return []api.StoragePart{
			{Name: "database", Backend: d.Backend, Bytes: d.DatabaseBytes, Objects: &rows, Retention: &api.Retention{
				Ended: int64(d.Retention.Ended.Seconds()), Failed: int64(d.Retention.Failed.Seconds()),
			}},
			{Name: "blobs", Backend: d.Blobs},
		}, nil
	}
}
