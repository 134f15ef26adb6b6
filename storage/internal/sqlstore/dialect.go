package sqlstore

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"io"
	"net"
	"strings"
	"time"

	"github.com/glebarez/go-sqlite"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/crucible-eval/crucible/pkg/eval"
)

// A cursor in PostgreSQL has 12 bits below the transaction's id: as many events
// as one transaction may write.
const _ = uint(1<<12 - eval.MaxSubmission)

// dialect is everything in which the two databases differ.
type dialect struct {
	name       string
	lock       string // after a SELECT of one evaluation that will change
	lockRow    string // after a SELECT of one row of another table that will change
	skipLocked string // after a SELECT of evaluations that nobody else is changing
	cursor     string // the value of a new event's cursor; %d is its number within the transaction
	fence      string // the events that a feed may show
	onlyOne    string // takes a lock until the transaction ends, and says whether it is ours; "": there is one writer anyway
	nextFlow   string // joins n, the next client in the line at a priority after f
	rows       int    // how many one statement inserts: databases bound the values of a statement
	classify   func(error) *eval.Error
}

const afterFlow = " FROM evaluations WHERE " + inLine + " AND priority = ? AND (project_id, client) > (f.project_id, f.client) ORDER BY project_id, client LIMIT 1"

var sqliteDialect = dialect{
	name:     "sqlite",
	cursor:   "NULL", // AUTOINCREMENT gives the number
	nextFlow: "JOIN evaluations AS n ON n.rowid = (SELECT rowid" + afterFlow + ")",
	rows:     50, // a thousand rows: 85 ms; with 500 at once 256 ms
	classify: classifySQLite,
}

var postgresDialect = dialect{
	name:       "postgres",
	lock:       " FOR UPDATE OF e",
	lockRow:    " FOR UPDATE",
	skipLocked: " FOR UPDATE SKIP LOCKED",
	cursor:     "(pg_current_xact_id()::text::bigint << 12) + %d",
	rows:       500, // a thousand rows: 59 ms; with 100 at once 92 ms
	fence:      " AND cursor < (pg_snapshot_xmin(pg_current_snapshot())::text::bigint << 12)",
	onlyOne:    "SELECT pg_try_advisory_xact_lock(4711203954)",
	nextFlow:   "CROSS JOIN LATERAL (SELECT project_id, client" + afterFlow + ") AS n",
	classify:   classifyPostgres,
}

// unreachable is the error of a database that does not answer.
func unreachable(err error) *eval.Error {
	return &eval.Error{Kind: eval.KindUnavailable, RetryAfter: 2 * time.Second, Err: err,
		Message: "the database cannot be reached; the request can be sent again"}
}

func noRoom(err error) *eval.Error {
	return &eval.Error{Kind: eval.KindUnavailable, RetryAfter: 30 * time.Second, Err: err,
		Message: "the disk of the database is full; nothing was written: make room there"}
}

func busy(err error) *eval.Error {
	return &eval.Error{Kind: eval.KindUnavailable, RetryAfter: time.Second, Err: err,
		Message: "the database is busy; the request can be sent again"}
}

// fail turns an error of the database into one with a kind.
func (d dialect) fail(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[*eval.Error](err); ok {
		return err
	}
	if ctx.Err() != nil {
		return eval.Errorf(eval.KindUnavailable, "the request has ended: %w", errors.Join(context.Cause(ctx), err))
	}
	if e := d.classify(err); e != nil {
		return e
	}
	if lostConnection(err) {
		return unreachable(err)
	}
	return eval.Errorf(eval.KindInternal, "the database refused; the log of the storage has the details: %w", err)
}

func lostConnection(err error) bool {
	_, isNet := errors.AsType[net.Error](err)
	_, connecting := errors.AsType[*pgconn.ConnectError](err)
	return isNet || connecting || errors.Is(err, driver.ErrBadConn) || errors.Is(err, sql.ErrConnDone) ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, context.DeadlineExceeded) ||
		errors.Is(err, net.ErrClosed) || strings.Contains(err.Error(), "database is closed") ||
		strings.Contains(err.Error(), "conn closed")
}

func classifyPostgres(err error) *eval.Error {
	e, ok := errors.AsType[*pgconn.PgError](err)
	if !ok {
		return nil
	}
	switch {
	case e.Code == "53100":
		return noRoom(err)
	case e.Code == "57014", strings.HasPrefix(e.Code, "53"), strings.HasPrefix(e.Code, "40"), e.Code == "55P03":
		return busy(err)
	case strings.HasPrefix(e.Code, "08"), strings.HasPrefix(e.Code, "57P"), strings.HasPrefix(e.Code, "28"), e.Code == "3D000", e.Code == "25006":
		return unreachable(err)
	case e.Code == "42P01", e.Code == "42703":
		return &eval.Error{Kind: eval.KindUnavailable, RetryAfter: 30 * time.Second, Err: err,
			Message: "the database lacks tables or columns; run crucible migrate"}
	}
	return nil
}

func classifySQLite(err error) *eval.Error {
	e, ok := errors.AsType[*sqlite.Error](err)
	if !ok {
		return nil
	}
	switch e.Code() & 0xff {
	case 5, 6: // SQLITE_BUSY, SQLITE_LOCKED
		return busy(err)
	case 13: // SQLITE_FULL
		return noRoom(err)
	case 8, 10, 14: // SQLITE_READONLY, SQLITE_IOERR, SQLITE_CANTOPEN
		return &eval.Error{Kind: eval.KindUnavailable, RetryAfter: 30 * time.Second, Err: err,
			Message: "the file of the database cannot be read or written; check the data folder"}
	}
	return nil
}
