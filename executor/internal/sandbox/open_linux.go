package sandbox

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
)

// automatic are the levels that are made without being asked for, the
// strongest first.
var automatic = []string{LevelNamespaces, LevelNamespacesRlimit, LevelLandlock}

// Open makes a runtime of the level that cfg names, or, where it names none,
// of the strongest one of namespaces, namespaces-rlimit and landlock that has
// proven itself on this machine. The error wraps ErrUnsupported when the level
// cannot be had here, and says what to do; no other level is made instead.
func Open(ctx context.Context, cfg Config) (Runtime, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	if cfg.Level != "" {
		return openLevel(ctx, cfg)
	}
	var refused []error
	for _, level := range automatic {
		cfg.Level = level
		r, err := openProven(ctx, cfg)
		if err == nil {
			return r, nil
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		cfg.Logger.Warn("sandbox level is not to be had, trying a weaker one", "level", level, "why", err)
		refused = append(refused, fmt.Errorf("%s: %w", level, err))
	}
	return nil, fmt.Errorf("%w: %w", ErrUnsupported, errors.Join(refused...))
}

// proofTries is how often a level is tried that fails for another reason than
// that this machine does not have it.
const proofTries = 2

func openProven(ctx context.Context, cfg Config) (r Runtime, err error) {
	for range proofTries {
		if r, err = openLevel(ctx, cfg); err == nil {
			var seen Isolation
			if seen, err = r.Probe(ctx); err == nil {
				if r, ok := r.(*runtime); ok {
					r.fresh.Store(&seen) // whoever asks first need not wait for another
				}
				return r, nil
			}
			err = errors.Join(err, r.Close())
		}
		if errors.Is(err, ErrUnsupported) {
			break
		}
	}
	return nil, err
}

// Offer is a level, and what speaks against it on this machine.
type Offer struct {
	Level   string
	Problem error // nil: it can be had
}

// Survey tries every level that isolates, each with its proof, the strongest
// first. It takes about a second.
func Survey(ctx context.Context, cfg Config) []Offer {
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	var offers []Offer
	for _, level := range append([]string{LevelGVisor}, automatic...) {
		cfg.Level = level
		r, err := openProven(ctx, cfg)
		if err == nil {
			err = r.Close()
		}
		offers = append(offers, Offer{level, err})
	}
	return offers
}

// openLevel makes the level that is named, or fails.
func openLevel(ctx context.Context, cfg Config) (Runtime, error) {
	switch cfg.Level {
	case LevelGVisor:
		return openGVisor(ctx, cfg)
	case LevelNamespaces, LevelNamespacesRlimit:
		return openNamespaces(cfg)
	case LevelLandlock:
		return openLandlock(cfg)
	case LevelNone:
		if !cfg.AllowUnsafe {
			return nil, fmt.Errorf("%w: level %q isolates nothing, and has to be allowed as unsafe too (--allow-unsafe)", ErrUnsupported, LevelNone)
		}
		return openNone(cfg)
	}
	return nil, fmt.Errorf("%w: there is no level %q", ErrUnsupported, cfg.Level)
}
