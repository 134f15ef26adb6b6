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
// of the strongest one of namespaces, namespaces-rlimit and landlock that this
// machine allows. The error wraps ErrUnsupported when the level cannot be had
// here, and says what to do; no other level is made instead.
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
		r, err := openLevel(ctx, cfg)
		if err == nil || !errors.Is(err, ErrUnsupported) {
			return r, err
		}
		refused = append(refused, fmt.Errorf("%s: %w", level, err))
	}
	return nil, errors.Join(refused...)
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
