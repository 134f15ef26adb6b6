package executor

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/crucible-eval/crucible/executor/internal/rest"
	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/pkg/httpkit"
	"github.com/crucible-eval/crucible/pkg/service"
)

// ServiceConfig says how an executor is reached. See httpkit.Options for
// what each field means.
type ServiceConfig struct {
	Listen        string
	Tokens        []string
	AllowInsecure bool
	AllowedHosts  []string
	// BodyLimit bounds a request, in bytes; 0: enough for the largest program
	// of the policy, however it is written in JSON.
	BodyLimit int64
}

// Service is an executor behind HTTP.
type Service struct {
	*httpkit.Server
	local *Local
}

var _ service.Service = (*Service)(nil)

// New puts local behind HTTP. The caller closes local after the service has
// stopped. logger and registry may be nil.
func New(cfg ServiceConfig, local *Local, logger *slog.Logger, registry *prometheus.Registry) (*Service, error) {
	server, err := httpkit.New(httpkit.Options{
		Name: "executor", Listen: cfg.Listen, Logger: logger, Registry: registry,
		// A byte can take six in JSON, and there is more than the program.
		BodyLimit: cmp.Or(cfg.BodyLimit, 6*local.cfg.Policy.MaxProgramBytes+6*(eval.MaxArgBytes+eval.MaxEnvBytes)*2),
		Tokens:    httpkit.Nameless(cfg.Tokens), AllowInsecure: cfg.AllowInsecure, AllowedHosts: cfg.AllowedHosts,
		Parts: []httpkit.Part{{Name: "sandbox", Try: local.Ready}}, Live: local.Live, Version: local.cfg.Version,
	})
	if err != nil {
		return nil, fmt.Errorf("executor: %w", err)
	}
	rest.Routes(server.Echo(), local)
	return &Service{server, local}, nil
}

// Drain implements service.Drainer: it takes on no more runs.
func (s *Service) Drain() {
	s.Server.Drain()
	s.local.Refuse()
}

// Stop refuses new runs, waits for those under way until ctx ends, kills the
// rest, whose clients are told so, and stops listening.
func (s *Service) Stop(ctx context.Context) error {
	s.Drain()
	s.local.Drain(ctx)
	// Those that were killed still have to be told.
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastWords)
	defer cancel()
	return s.Server.Stop(last)
}

// lastWords is how long answers of runs that have ended may take to be sent.
const lastWords = 2 * time.Second
