package storage

import (
	"context"
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/crucible-eval/crucible/pkg/httpkit"
	"github.com/crucible-eval/crucible/pkg/service"
	"github.com/crucible-eval/crucible/storage/internal/rest"
)

// ServiceConfig says how the storage service listens.
type ServiceConfig struct {
	Listen        string   // host:port; port 0 takes a free one
	Tokens        []string // credentials that are accepted; none: loopback only
	AllowInsecure bool     // listen elsewhere without tokens
	AllowedHosts  []string // accepted as Host besides loopback names, without tokens
	Version       string
	Live          func() error // of what runs beside it; nil: nothing does
}

// Service serves a backend over HTTP. It does not close it.
type Service struct {
	*httpkit.Server
}

var _ service.Service = (*Service)(nil)

// New makes the storage service of an open backend. logger and registry may be nil.
func New(cfg ServiceConfig, b *Backend, logger *slog.Logger, registry *prometheus.Registry) (*Service, error) {
	server, err := httpkit.New(httpkit.Options{
		Name: "storage", Listen: cfg.Listen, Logger: logger, Registry: registry, Version: cfg.Version,
		Tokens: httpkit.Nameless(cfg.Tokens), AllowInsecure: cfg.AllowInsecure, AllowedHosts: cfg.AllowedHosts, Parts: b.Parts(), Live: cfg.Live,
	})
	if err != nil {
		return nil, err
	}
	rest.Routes(server.Echo(), b.Store, b.Blobs, func(ctx context.Context, project string) (any, error) {
		d, err := b.Describe(ctx, project)
		if err != nil {
			return nil, err
		}
		return info{Version: cfg.Version, Description: d}, nil
	})
	return &Service{server}, nil
}

// info answers GET /v1/info.
type info struct {
	Version string `json:"version,omitempty"`
	Description
}
