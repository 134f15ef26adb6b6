// Package platform puts the parts of Crucible together: all of them in one
// process, or one service whose siblings are reached over HTTP. Nothing else
// knows which of the two it is.
package platform

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/pkg/service"
	"github.com/crucible-eval/crucible/storage"
)

// Platform is services that start and stop as one, and what is closed after
// them.
type Platform struct {
	*service.Group
	// URL is where it listens, once started.
	URL func() string
	// Facts are lines for people about what runs here.
	Facts []Fact
	// Reload has the languages looked at again; nil where there are none.
	Reload func()

	closing []func() error
	rt      *Runtime
}

// Fact is something that people want to know about what was started.
type Fact struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// Stop implements service.Service: it stops the services and closes what
// they used, and sends the last traces.
func (p *Platform) Stop(ctx context.Context) error {
	var errs []error
	if p.Group != nil {
		errs = append(errs, p.Group.Stop(ctx))
	}
	for len(p.closing) > 0 {
		last := len(p.closing) - 1
		errs = append(errs, p.closing[last]())
		p.closing = p.closing[:last]
	}
	if err := p.rt.stopTracing(ctx); err != nil { // worth a line, not a failure
		p.rt.Logger.Warn("the last traces were not delivered", "err", err)
	}
	return errors.Join(errs...)
}

func (p *Platform) closeLater(f func() error) { p.closing = append(p.closing, f) }

func (p *Platform) fact(name, format string, args ...any) {
	p.Facts = append(p.Facts, Fact{name, fmt.Sprintf(format, args...)})
}

// abandon is deferred by those who build a platform: when that ends in an
// error, it closes what was opened.
func (p *Platform) abandon(ctx context.Context, err *error) {
	if *err != nil {
		*err = errors.Join(*err, p.Stop(context.WithoutCancel(ctx)))
	}
}

// Storage is the storage's configuration, with the data folder filled in.
func (k Keep) Storage(autoMigrate bool) (storage.Config, error) {
	cfg := storage.Config{
		Backend: k.Backend, DataDir: k.DataDir, DatabaseURL: k.DatabaseURL.Reveal(), BlobsURL: k.BlobsURL.Reveal(),
		AutoMigrate: autoMigrate, Durable: k.Durable, Retention: eval.Retention{Ended: k.Retention, Failed: k.RetentionFailed},
	}
	if cfg.DataDir != "" {
		dir, err := filepath.Abs(cfg.DataDir)
		cfg.DataDir = dir
		return cfg, err
	}
	if cfg.Backend == storage.Memory {
		return cfg, nil
	}
	base := os.Getenv("XDG_DATA_HOME")
	if base == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return cfg, fmt.Errorf("no folder for data: %w; name one with --data-dir", err)
		}
		base = filepath.Join(home, ".local", "share")
	}
	cfg.DataDir = filepath.Join(base, "crucible")
	return cfg, nil
}

// openStorage takes the data folder and opens what is in it.
func (p *Platform) openStorage(ctx context.Context, k Keep, life Life, autoMigrate bool, log *slog.Logger) (*storage.Backend, error) {
	cfg, err := k.Storage(autoMigrate)
	if err != nil {
		return nil, err
	}
	cfg.Rules = life.Rules()
	if cfg.DataDir != "" {
		release, err := lock(cfg.DataDir)
		if err != nil {
			return nil, err
		}
		p.closeLater(release)
	}
	backend, err := storage.Open(ctx, cfg, log)
	if err != nil {
		return nil, err
	}
	p.closeLater(backend.Close)
	switch {
	case k.DatabaseURL != "":
		p.fact("storage", "%s, and files in %s", k.DatabaseURL, cfg.DataDir)
	case cfg.DataDir == "":
		p.fact("storage", "in memory only")
	default:
		p.fact("storage", "%s", cfg.DataDir)
	}
	return backend, nil
}

func secrets[T interface{ Reveal() string }](all []T) []string {
	out := make([]string, 0, len(all))
	for _, s := range all {
		if v := s.Reveal(); v != "" {
			out = append(out, v)
		}
	}
	return out
}
