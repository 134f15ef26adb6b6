package sqlstore

import (
	"context"
	"database/sql"
	"fmt"
	"net/url"
	"os"
	"path/filepath"

	"github.com/glebarez/sqlite"
	"gorm.io/gorm"
)

// OpenSQLite opens the database in the file at path, made when missing, and
// brings its tables up to date. One connection writes; as SQLite has one writer
// at a time anyway, waiting for it in the process is cheaper than in the file.
func OpenSQLite(ctx context.Context, path string, o Options) (*Store, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("the data folder cannot be made: %w", err)
	}
	writer, err := openSQLite(path, 1, o.Durable, "")
	if err != nil {
		return nil, err
	}
	if err := migrateUp(ctx, writer, sqliteDialect); err != nil {
		_ = writer.Close()
		return nil, sqliteDialect.fail(ctx, err)
	}
	if o.MaxConnections <= 0 {
		o.MaxConnections = 4
	}
	reader, err := openSQLite(path, o.MaxConnections, o.Durable, "&_pragma=query_only(1)")
	if err != nil {
		_ = writer.Close()
		return nil, err
	}
	write, err := gorm.Open(sqlite.Dialector{Conn: writer}, gormConfig())
	if err != nil {
		return nil, sqliteDialect.fail(ctx, err)
	}
	read, err := gorm.Open(sqlite.Dialector{Conn: reader}, gormConfig())
	if err != nil {
		return nil, sqliteDialect.fail(ctx, err)
	}
	// The writer is closed last: it then folds the write-ahead log into the file.
	return newStore(sqliteDialect, o, write, read, reader, writer), nil
}

func openSQLite(path string, connections int, durable bool, more string) (*sql.DB, error) {
	synchronous := "normal"
	if durable {
		synchronous = "full"
	}
	dsn := "file:" + (&url.URL{Path: path}).EscapedPath() + "?_txlock=immediate" +
		"&_pragma=busy_timeout(5000)&_pragma=journal_mode(wal)&_pragma=foreign_keys(1)" +
		"&_pragma=temp_store(memory)&_pragma=cache_size(-16000)&_pragma=synchronous(" + synchronous + ")" + more
	db, err := sql.Open(sqlite.DriverName, dsn)
	if err != nil {
		return nil, fmt.Errorf("open the database %s: %w", path, err)
	}
	db.SetMaxOpenConns(connections)
	db.SetMaxIdleConns(connections)
	return db, nil
}
