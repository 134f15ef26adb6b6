package cli

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/crucible-eval/crucible/cmd/internal/platform"
)

// afterDrain is what a stop may take beyond the time for draining.
const afterDrain = 15 * time.Second

// UpCmd starts everything in one process.
type UpCmd struct {
	Listen string `group:"Access" env:"CRUCIBLE_LISTEN" default:"127.0.0.1:8080" help:"Where the API listens. Port 0 takes a free one."`
	platform.Log
	platform.Queue
	platform.Keep
	platform.Door
	platform.Keys
	platform.Sandbox
	platform.Grants
	platform.Work
	platform.Stop
}

// Run implements a kong command.
func (c *UpCmd) Run(s *session) error {
	return serve(s, "crucible", c.Log, c.Stop, func(ctx context.Context, rt *platform.Runtime) (*platform.Platform, error) {
		return platform.AllInOne(ctx, c.config(), rt)
	})
}

func (c *UpCmd) config() platform.AllInOneConfig {
	return platform.AllInOneConfig{
		Listen: c.Listen, Log: c.Log, Queue: c.Queue, Keep: c.Keep, Door: c.Door, Keys: c.Keys, Sandbox: c.Sandbox, Grants: c.Grants, Work: c.Work, Stop: c.Stop,
	}
}

// APICmd starts the API alone.
type APICmd struct {
	Listen string `group:"Access" env:"CRUCIBLE_LISTEN" default:"127.0.0.1:8080" help:"Where the API listens."`
	platform.Log
	platform.Queue
	platform.Siblings
	platform.Grants
	platform.Door
	platform.Keys
	platform.Token
	platform.Stop
}

// Run implements a kong command.
func (c *APICmd) Run(s *session) error {
	return serve(s, "api", c.Log, c.Stop, func(ctx context.Context, rt *platform.Runtime) (*platform.Platform, error) {
		return platform.API(ctx, platform.APIConfig{
			Listen: c.Listen, Log: c.Log, Queue: c.Queue, Siblings: c.Siblings, Grants: c.Grants, Door: c.Door, Keys: c.Keys, Token: c.Token, Stop: c.Stop,
		}, rt)
	})
}

// WorkerCmd starts a worker alone.
type WorkerCmd struct {
	Listen string `group:"Access" env:"CRUCIBLE_LISTEN" default:"127.0.0.1:8081" help:"Where health checks and metrics are."`
	platform.Log
	platform.Queue
	platform.Siblings
	platform.Work
	platform.Door
	platform.Token
	platform.Stop
}

// Run implements a kong command.
func (c *WorkerCmd) Run(s *session) error {
	return serve(s, "worker", c.Log, c.Stop, func(ctx context.Context, rt *platform.Runtime) (*platform.Platform, error) {
		return platform.Worker(ctx, platform.WorkerConfig{
			Listen: c.Listen, Log: c.Log, Queue: c.Queue, Siblings: c.Siblings, Work: c.Work, Door: c.Door, Token: c.Token, Stop: c.Stop,
		}, rt)
	})
}

// ExecutorCmd starts an executor alone.
type ExecutorCmd struct {
	Listen string `group:"Access" env:"CRUCIBLE_LISTEN" default:"127.0.0.1:8082" help:"Where workers reach it."`
	platform.Log
	platform.Sandbox
	platform.Grants
	platform.Door
	platform.Token
	platform.Stop
}

// Run implements a kong command.
func (c *ExecutorCmd) Run(s *session) error {
	return serve(s, "executor", c.Log, c.Stop, func(ctx context.Context, rt *platform.Runtime) (*platform.Platform, error) {
		return platform.Executor(ctx, platform.ExecutorConfig{
			Listen: c.Listen, Log: c.Log, Sandbox: c.Sandbox, Grants: c.Grants, Door: c.Door, Token: c.Token, Stop: c.Stop,
		}, rt)
	})
}

// StorageCmd starts the storage alone.
type StorageCmd struct {
	Listen string `group:"Access" env:"CRUCIBLE_LISTEN" default:"127.0.0.1:8083" help:"Where the API and workers reach it."`
	platform.Log
	platform.Keep
	AutoMigrate bool `group:"Storage" env:"CRUCIBLE_AUTO_MIGRATE" help:"Bring a PostgreSQL database up to date at the start. Otherwise that is the work of crucible migrate."`
	platform.Door
	platform.Token
	platform.Stop
}

// Run implements a kong command.
func (c *StorageCmd) Run(s *session) error {
	return serve(s, "storage", c.Log, c.Stop, func(ctx context.Context, rt *platform.Runtime) (*platform.Platform, error) {
		return platform.Storage(ctx, platform.StorageConfig{
			Listen: c.Listen, Log: c.Log, Keep: c.Keep, AutoMigrate: c.AutoMigrate, Door: c.Door, Token: c.Token, Stop: c.Stop,
		}, rt)
	})
}

// serve runs a platform until it is asked to stop or a part of it fails.
func serve(s *session, name string, log platform.Log, stop platform.Stop, build func(context.Context, *platform.Runtime) (*platform.Platform, error)) error {
	rt, err := platform.NewRuntime(s.ctx, name, log, s.stderr)
	if err != nil {
		return err
	}
	began := time.Now()
	p, err := build(s.ctx, rt)
	if err == nil {
		if err = p.Start(s.ctx); err != nil {
			err = errors.Join(err, p.Stop(context.WithoutCancel(s.ctx)))
		}
	}
	if err != nil {
		if s.ctx.Err() != nil {
			return nil // asked to stop while it started
		}
		return err
	}
	announce(s, name, rt, p, time.Since(began))

	var failed error
	select {
	case <-s.ctx.Done():
		rt.Logger.Info("stopping: what runs may end; interrupt again to end it now", "patience", stop.DrainTimeout)
	case failed = <-p.Failed():
		rt.Logger.Error("a part failed; stopping", "err", failed)
	}
	patience, cancel := context.WithTimeout(s.hard, stop.DrainTimeout+afterDrain)
	defer cancel()
	err = p.Stop(patience)
	if s.hard.Err() != nil {
		return withCode{errors.New("stopped at once"), 130}
	}
	return errors.Join(failed, err)
}

// announce says what runs, where to click, and what to try.
func announce(s *session, name string, rt *platform.Runtime, p *platform.Platform, took time.Duration) {
	url := p.URL()
	rt.Logger.Info("ready", "service", name, "url", url, "version", rt.Version, "took_ms", took.Milliseconds())
	if s.json {
		// The standard output is all that this writes to; where it is closed, nobody listens.
		_ = writeJSON(s.stdout, map[string]any{"service": name, "url": url, "version": rt.Version, "facts": p.Facts})
		return
	}
	c := paintFor(s.stdout)
	line := func(what, value string) { fmt.Fprintf(s.stdout, "  %-10s %s\n", what, value) }
	title := "Crucible"
	if name != "crucible" {
		title += " " + name
	}
	fmt.Fprintf(s.stdout, "\n%s %s is ready after %s\n\n", c.bold(title), rt.Version, took.Round(10*time.Millisecond))
	if name == "crucible" || name == "api" {
		line("start at", c.bold(url+"/"))
		line("API", url+"/docs")
		line("queues", url+"/monitor")
	} else {
		line("listens", url)
	}
	for _, f := range p.Facts {
		line(f.Name, f.Value)
	}
	if name == "crucible" || name == "api" {
		at := ""
		if url != "http://127.0.0.1:8080" {
			at = " --url " + url
		}
		fmt.Fprintf(s.stdout, "\n  try it:    echo 'print(6 * 7)' | crucible submit%s --language python -\n", at)
	}
	fmt.Fprintln(s.stdout)
}
