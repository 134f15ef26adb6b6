package cli

import (
	"context"
	"errors"
	"os"
	"time"

	"github.com/crucible-eval/crucible/cmd/internal/client"
	"github.com/crucible-eval/crucible/cmd/internal/platform"
)

// embedded starts a platform of its own in a temporary folder, for commands
// that need one and were given none. stop leaves nothing behind. Its log has
// warnings only, on the standard error.
func embedded(s *session, cfg platform.AllInOneConfig, connections int) (api *client.Client, stop func() error, err error) {
	dir, err := os.MkdirTemp("", "crucible-")
	if err != nil {
		return nil, nil, err
	}
	cfg.Listen, cfg.DataDir = "127.0.0.1:0", dir
	cfg.LogLevel, cfg.LogFormat = "warn", "auto"
	cfg.Lease, cfg.ReconcileEvery, cfg.DrainTimeout = 15*time.Second, 250*time.Millisecond, 10*time.Second
	rt, err := platform.NewRuntime(s.ctx, "crucible", cfg.Log, s.stderr)
	if err != nil {
		return nil, nil, errors.Join(err, os.RemoveAll(dir))
	}
	p, err := platform.AllInOne(s.ctx, cfg, rt)
	if err != nil {
		return nil, nil, errors.Join(err, os.RemoveAll(dir))
	}
	end := func() error {
		ctx, cancel := context.WithTimeout(s.hard, cfg.DrainTimeout)
		defer cancel()
		return errors.Join(p.Stop(ctx), os.RemoveAll(dir))
	}
	if err := p.Start(s.ctx); err != nil {
		return nil, nil, errors.Join(err, end())
	}
	if api, err = client.New(p.URL(), "", connections); err != nil {
		return nil, nil, errors.Join(err, end())
	}
	return api, func() error {
		api.Close()
		return end()
	}, nil
}
