package storage

import (
	"context"
	"strings"

	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/storage/internal/sqlstore"
)

// Description says what a backend is and holds. What is not known is absent.
type Description struct {
	Backend       string     `json:"backend"`
	Blobs         string     `json:"blobs"`
	Project       string     `json:"project"`
	Stats         eval.Stats `json:"stats"` // of the project
	DatabaseBytes *int64     `json:"database_bytes,omitempty"`

	Retention eval.Retention `json:"retention"`
}

// Describe says what the backend is and what it holds of a project. KindUnavailable.
func (b *Backend) Describe(ctx context.Context, project string) (Description, error) {
	d := Description{Backend: b.kind, Blobs: b.blobs, Project: project, Retention: b.retention}
	var err error
	if d.Stats, err = b.Store.Stats(ctx, project); err != nil {
		return d, err
	}
	if b.sizes != nil {
		d.DatabaseBytes, err = b.sizes(ctx)
	}
	return d, err
}

func schemeOf(address string) string {
	scheme, _, _ := strings.Cut(address, ":")
	return scheme
}

// Migration is one step of a database's history.
type Migration = sqlstore.Migration

// Migrate brings the database's tables up to date and returns all steps. The
// backends memory and file have none.
func Migrate(ctx context.Context, cfg Config) ([]Migration, error) { return migrate(ctx, cfg, true) }

// MigrationStatus returns all steps; those without a time are still to come.
func MigrationStatus(ctx context.Context, cfg Config) ([]Migration, error) {
	return migrate(ctx, cfg, false)
}

func migrate(ctx context.Context, cfg Config, up bool) ([]Migration, error) {
	cfg, err := cfg.check()
	if err != nil {
		return nil, err
	}
	switch cfg.Backend {
	case SQLite:
		return sqlstore.MigrateSQLite(ctx, cfg.databaseFile(), up)
	case Postgres:
		return sqlstore.MigratePostgres(ctx, cfg.DatabaseURL, up)
	default:
		return nil, nil
	}
}
