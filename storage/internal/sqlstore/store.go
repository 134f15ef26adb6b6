// Package sqlstore keeps evaluations in SQLite or PostgreSQL. It is one
// implementation for both: dialect.go has all that differs. Every change loads
// the row under a lock, asks package eval what becomes of it, and writes that
// with a compare-and-set on status and attempt, in one transaction.
package sqlstore

import (
	"context"
	"database/sql"
	"errors"
	"io"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"gorm.io/gorm"
	"gorm.io/gorm/logger"

	"github.com/crucible-eval/crucible/pkg/eval"
)

// Options configures a store. The zero value is ready for use.
type Options struct {
	Rules eval.Rules       // default: eval.DefaultRules
	Now   func() time.Time // default: the clock of the database
	// MaxConnections bounds the connections. Default: 16 for PostgreSQL; for
	// SQLite the connections that read, 4.
	MaxConnections int
	// Durable makes SQLite wait for the disk at each commit, so that not even
	// a power cut loses the last ones. A crash of the process never does.
	Durable bool
	// Timeout bounds each operation, for a database that has stopped
	// answering. Default: DefaultTimeout.
	Timeout time.Duration
}

// DefaultTimeout is long enough for a batch of a thousand large programs.
const DefaultTimeout = 20 * time.Second

// Store is an [eval.Store] in a database.
type Store struct {
	dialect dialect
	rules   eval.Rules
	now     func() time.Time
	timeout time.Duration
	window  atomic.Int64 // how many of one priority wait in the queue, as Due was told last
	given   given
	write   *gorm.DB
	read    *gorm.DB // the same as write, except for SQLite
	closing []io.Closer

	closeOnce sync.Once
	closeErr  error
}

var _ eval.Store = (*Store)(nil)

func newStore(d dialect, o Options, write, read *gorm.DB, closing ...io.Closer) *Store {
	if o.Rules == (eval.Rules{}) {
		o.Rules = eval.DefaultRules()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Timeout <= 0 {
		o.Timeout = DefaultTimeout
	}
	return &Store{
		dialect: d, rules: o.Rules, timeout: o.Timeout, write: write, read: read, closing: closing,
		now: func() time.Time { return eval.StoreTime(o.Now()) },
	}
}

// gormConfig: statements are ours, transactions are explicit, and errors are
// returned rather than logged.
func gormConfig() *gorm.Config {
	return &gorm.Config{SkipDefaultTransaction: true, DisableAutomaticPing: true, Logger: logger.Discard}
}

// Now is the time by the clock of the database.
func (s *Store) Now() time.Time { return s.now() }

// Close closes the connections. Methods called afterwards answer KindUnavailable.
func (s *Store) Close() error {
	s.closeOnce.Do(func() {
		var errs []error
		for _, c := range s.closing {
			errs = append(errs, c.Close())
		}
		s.closeErr = errors.Join(errs...)
	})
	return s.closeErr
}

// Ping returns nil when the database answers. KindUnavailable.
func (s *Store) Ping(ctx context.Context) error {
	return s.look(ctx, func(*sql.Rows) error { return nil }, "SELECT 1 FROM evaluations LIMIT 1")
}

// tx is one transaction.
type tx struct {
	db     *gorm.DB
	store  *Store
	now    time.Time
	events int // written so far
}

// beginTries is how many stale connections a request may meet before it gives
// up: nothing has been sent to the database by then.
const beginTries = 3

// transact runs fn in a transaction on the connection that writes.
func (s *Store) transact(caller context.Context, fn func(*tx) error) (err error) {
	ctx, cancel := context.WithTimeout(caller, s.timeout)
	defer cancel()
	var db *gorm.DB
	for range beginTries {
		db = s.write.WithContext(ctx).Begin()
		if err = db.Error; err == nil || ctx.Err() != nil || !errors.Is(err, io.EOF) && !errors.Is(err, sql.ErrConnDone) {
			break
		}
	}
	if err != nil {
		return s.dialect.fail(caller, err)
	}
	done := false
	defer func() {
		if !done { // an error, or a panic in fn
			_ = db.Rollback()
		}
	}()
	if err := fn(&tx{db: db, store: s, now: s.now()}); err != nil {
		return s.dialect.fail(caller, err)
	}
	done = true
	return s.dialect.fail(caller, db.Commit().Error)
}

// exec runs a statement and returns how many rows it touched.
func (t *tx) exec(statement string, args ...any) (int64, error) {
	result := t.db.Exec(statement, args...)
	return result.RowsAffected, result.Error
}

// rows runs a query and calls each for every row.
func rows(db *gorm.DB, each func(*sql.Rows) error, query string, args ...any) error {
	found, err := db.Raw(query, args...).Rows()
	if err != nil {
		return err
	}
	defer func() { _ = found.Close() }()
	for found.Next() {
		if err := each(found); err != nil {
			return err
		}
	}
	return found.Err()
}

// look runs a query outside of any transaction.
func (s *Store) look(caller context.Context, each func(*sql.Rows) error, query string, args ...any) error {
	ctx, cancel := context.WithTimeout(caller, s.timeout)
	defer cancel()
	return s.dialect.fail(caller, rows(s.read.WithContext(ctx), each, query, args...))
}

func jitter() float64 { return rand.Float64() }
