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
type UpCmd struct{ platform.AllInOneConfig }

// Run implements a kong command.
func (c *UpCmd) Run(s *session) error {
	return serve(s, "crucible", c.Log, c.Stop, func(ctx context.Context, rt *platform.Runtime) (*platform.Platform, error) {
		return platform.AllInOne(ctx, c.AllInOneConfig, rt)
	})
}

// APICmd starts the API alone.
type APICmd struct{ platform.APIConfig }

// Run implements a kong command.
func (c *APICmd) Run(s *session) error {
	return serve(s, "api", c.Log, c.Stop, func(ctx context.Context, rt *platform.Runtime) (*platform.Platform, error) {
		return platform.API(ctx, c.APIConfig, rt)
	})
}

// WorkerCmd starts a worker alone.
type WorkerCmd struct{ platform.WorkerConfig }

// Run implements a kong command.
func (c *WorkerCmd) Run(s *session) error {
	return serve(s, "worker", c.Log, c.Stop, func(ctx context.Context, rt *platform.Runtime) (*platform.Platform, error) {
		return platform.Worker(ctx, c.WorkerConfig, rt)
	})
}

// ExecutorCmd starts an executor alone.
type ExecutorCmd struct{ platform.ExecutorConfig }

// Run implements a kong command.
func (c *ExecutorCmd) Run(s *session) error {
	return serve(s, "executor", c.Log, c.Stop, func(ctx context.Context, rt *platform.Runtime) (*platform.Platform, error) {
		return platform.Executor(ctx, c.ExecutorConfig, rt)
	})
}

// StorageCmd starts the storage alone.
type StorageCmd struct{ platform.StorageConfig }

// Run implements a kong command.
func (c *StorageCmd) Run(s *session) error {
	return serve(s, "storage", c.Log, c.Stop, func(ctx context.Context, rt *platform.Runtime) (*platform.Platform, error) {
		return platform.Storage(ctx, c.StorageConfig, rt)
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

	hangUp, stopReloading := hangUps(s.stderr, p.Reload)
	defer stopReloading()
	var failed error
	for running := true; running; {
		select {
		case <-hangUp:
			rt.Logger.Info("reloading the languages")
			p.Reload()
		case <-s.ctx.Done():
			rt.Logger.Info("stopping: what runs may end; interrupt again to end it now", "patience", stop.DrainTimeout)
			running = false
		case failed = <-p.Failed():
			rt.Logger.Error("a part failed; stopping", "err", failed)
			running = false
		}
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
