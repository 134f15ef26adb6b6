package sqlstore

import (
	"context"
	"database/sql"
	"fmt"
	"io"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"gorm.io/driver/postgres"
	"gorm.io/gorm"

	"github.com/crucible-eval/crucible/pkg/eval"
)

const (
	connectTimeout = 5 * time.Second
	// A statement that takes longer than this is given up, so that a database
	// that hangs shows as unavailable.
	statementTimeout = 30 * time.Second
)

// OpenPostgres connects to the database at url. migrate brings its tables up
// to date first. KindUnavailable when it does not answer.
func OpenPostgres(ctx context.Context, url string, migrate bool, o Options) (*Store, error) {
	db, err := connectPostgres(url, o.MaxConnections)
	if err != nil {
		return nil, err
	}
	if migrate {
		if err := migrateUp(ctx, db, postgresDialect); err != nil {
			_ = db.Close()
			return nil, postgresDialect.fail(ctx, err)
		}
	}
	g, err := gorm.Open(postgres.New(postgres.Config{Conn: db}), gormConfig())
	if err != nil {
		_ = db.Close()
		return nil, postgresDialect.fail(ctx, err)
	}
	closing := []io.Closer{db}
	if o.Now == nil {
		clock, err := newClock(ctx, db)
		if err != nil {
			_ = db.Close()
			return nil, postgresDialect.fail(ctx, err)
		}
		o.Now = clock.now
		closing = []io.Closer{clock, db}
	}
	return newStore(postgresDialect, o, g, g, closing...), nil
}

func connectPostgres(url string, connections int) (*sql.DB, error) {
	config, err := pgx.ParseConfig(url)
	if err != nil { // the error of pgx hides the password
		return nil, eval.Errorf(eval.KindInvalid, "the database URL cannot be read; use postgres://user:password@host/database: %w", err)
	}
	if config.ConnectTimeout == 0 {
		config.ConnectTimeout = connectTimeout
	}
	if config.RuntimeParams["statement_timeout"] == "" {
		config.RuntimeParams["statement_timeout"] = fmt.Sprint(statementTimeout.Milliseconds())
	}
	if config.RuntimeParams["idle_in_transaction_session_timeout"] == "" { // a process that was stopped gives back its locks
		config.RuntimeParams["idle_in_transaction_session_timeout"] = fmt.Sprint(statementTimeout.Milliseconds())
	}
	if config.RuntimeParams["application_name"] == "" {
		config.RuntimeParams["application_name"] = "crucible"
	}
	if connections <= 0 {
		connections = 16
	}
	db := stdlib.OpenDB(*config)
	db.SetMaxOpenConns(connections)
	db.SetMaxIdleConns(connections)
	db.SetConnMaxIdleTime(5 * time.Minute)
	return db, nil
}
