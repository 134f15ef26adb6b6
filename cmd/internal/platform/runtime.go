package platform

import (
	"context"
	"io"
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/crucible-eval/crucible/pkg/observe"
)

// Runtime is what every part of a program shares.
type Runtime struct {
	Logger   *slog.Logger
	Registry *prometheus.Registry
	Version  string

	stopTracing func(context.Context) error
}

// NewRuntime sets up the log, metrics and traces of a program whose name is
// service. The log goes to w.
func NewRuntime(ctx context.Context, service string, cfg Log, w io.Writer) (*Runtime, error) {
	logger, err := observe.NewLogger(w, cfg.LogLevel, cfg.LogFormat)
	if err != nil {
		return nil, err
	}
	stop, err := observe.Tracing(ctx, observe.TraceConfig{Endpoint: cfg.OTLPEndpoint, Service: "crucible-" + service, Ratio: cfg.TraceRatio}, logger)
	if err != nil {
		return nil, err
	}
	return &Runtime{Logger: logger, Registry: observe.NewRegistry(service), Version: observe.Version().Version, stopTracing: stop}, nil
}
