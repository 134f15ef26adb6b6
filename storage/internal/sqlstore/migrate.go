package sqlstore

import (
	"context"
	"database/sql"
	"embed"
	"fmt"
	"io/fs"
	"time"

	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"
)

//go:embed migrations
var migrations embed.FS

// Migration is one step of the tables' history.
type Migration struct {
	Version   int64      `json:"version"`
	Name      string     `json:"name"`
	AppliedAt *time.Time `json:"applied_at,omitempty"` // nil: it is still to come
}

func provider(db *sql.DB, d dialect) (*goose.Provider, error) {
	files, err := fs.Sub(migrations, "migrations/"+d.name)
	if err != nil {
		return nil, err
	}
	options := []goose.ProviderOption{goose.WithLogger(goose.NopLogger())}
	kind := goose.DialectSQLite3
	if d.name == postgresDialect.name {
		kind = goose.DialectPostgres
		// Several replicas may start at once: one migrates, the others wait.
		locker, err := lock.NewPostgresSessionLocker(lock.WithLockTimeout(1, 60)) // each second, for a minute
		if err != nil {
			return nil, err
		}
		options = append(options, goose.WithSessionLocker(locker))
	}
	return goose.NewProvider(kind, db, files, options...)
}

func migrateUp(ctx context.Context, db *sql.DB, d dialect) error {
	p, err := provider(db, d)
	if err != nil {
		return err
	}
	if _, err := p.Up(ctx); err != nil {
		return fmt.Errorf("migrate the database: %w", err)
	}
	return nil
}

func migrationStatus(ctx context.Context, db *sql.DB, d dialect) ([]Migration, error) {
	p, err := provider(db, d)
	if err != nil {
		return nil, err
	}
	found, err := p.Status(ctx)
	if err != nil {
		return nil, err
	}
	all := make([]Migration, len(found))
	for i, m := range found {
		all[i] = Migration{Version: m.Source.Version, Name: m.Source.Path}
		if m.State == goose.StateApplied {
			all[i].AppliedAt = &m.AppliedAt
		}
	}
	return all, nil
}

// MigrateSQLite brings the database at path up to date, and says what has been applied when.
func MigrateSQLite(ctx context.Context, path string, up bool) ([]Migration, error) {
	db, err := openSQLite(path, 1, true, "")
	if err != nil {
		return nil, err
	}
	return migrate(ctx, db, sqliteDialect, up)
}

// MigratePostgres is [MigrateSQLite] for the database at url.
func MigratePostgres(ctx context.Context, url string, up bool) ([]Migration, error) {
	db, err := connectPostgres(url, 2)
	if err != nil {
		return nil, err
	}
	return migrate(ctx, db, postgresDialect, up)
}

func migrate(ctx context.Context, db *sql.DB, d dialect, up bool) ([]Migration, error) {
	defer func() { _ = db.Close() }()
	if up {
		if err := migrateUp(ctx, db, d); err != nil {
			return nil, d.fail(ctx, err)
		}
	}
	all, err := migrationStatus(ctx, db, d)
	return all, d.fail(ctx, err)
}
