// Package storage keeps evaluations and blobs: it opens the backend that the
// configuration names, and serves it over HTTP to the other services. Package
// remote is the other end.
package storage

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/crucible-eval/crucible/pkg/eval"
)

// Names of the backends.
const (
	Memory   = "memory"   // in the process, and gone with it
	File     = "file"     // one JSON file per evaluation, for one process
	SQLite   = "sqlite"   // one database file: the default
	Postgres = "postgres" // a server, for any number of processes
)

// Backends lists the names of the backends.
func Backends() []string { return []string{Memory, File, SQLite, Postgres} }

// Config says where evaluations and blobs are kept.
type Config struct {
	// Backend is one of Backends. Empty: postgres when there is a
	// DatabaseURL, else sqlite.
	Backend string
	// DataDir holds everything that is kept in files.
	DataDir string
	// DatabaseURL is the PostgreSQL server: postgres://user:password@host/database.
	DatabaseURL string
	// BlobsURL is file:///folder, mem:// or s3://bucket?region=... Empty: the
	// folder blobs in DataDir, or memory with the memory backend.
	BlobsURL string
	// AutoMigrate brings a PostgreSQL database up to date when it is opened.
	// Backends in files always are.
	AutoMigrate bool
	// MaxConnections to the database; 0 is the backend's default.
	MaxConnections int
	// MaxEvaluations that the memory and file backends keep; 0 is their default.
	MaxEvaluations int
	// Durable makes SQLite wait for the disk at each commit, against power cuts.
	Durable bool
	// Timeout bounds each operation of a database; 0 is 20 seconds.
	Timeout time.Duration

	// Retention is how long what has ended is kept, where a Sweeper runs. All
	// processes that share a database need the same. Zero: for ever.
	Retention eval.Retention

	Rules eval.Rules       // default: eval.DefaultRules
	Now   func() time.Time // for tests; default: the backend's clock
}

// check fills in what is left out. KindInvalid names what does not fit together.
func (c Config) check() (Config, error) {
	if c.Backend == "" {
		c.Backend = SQLite
		if c.DatabaseURL != "" {
			c.Backend = Postgres
		}
	}
	var bad []eval.FieldError
	if !slices.Contains(Backends(), c.Backend) {
		bad = append(bad, eval.FieldError{Field: "backend", Message: fmt.Sprintf("is %q; it must be one of %s", c.Backend, strings.Join(Backends(), ", "))})
	}
	if c.Backend == Postgres && c.DatabaseURL == "" {
		bad = append(bad, eval.FieldError{Field: "database_url", Message: "is needed for the backend postgres: give postgres://user:password@host/database"})
	}
	if c.Backend != Postgres && c.DatabaseURL != "" {
		bad = append(bad, eval.FieldError{Field: "database_url", Message: "is set, but the backend is " + c.Backend + ": leave one of the two out"})
	}
	if c.Rules == (eval.Rules{}) {
		c.Rules = eval.DefaultRules()
	}
	if err, ok := errors.AsType[*eval.Error](c.Rules.Check()); ok {
		bad = append(bad, err.Fields...)
	}
	if c.Retention.Ended < 0 || c.Retention.Failed < 0 {
		bad = append(bad, eval.FieldError{Field: "retention", Message: "is negative; give an age such as 720h, or 0 to keep everything for ever"})
	}
	needsFolder := c.Backend == File || c.Backend == SQLite || c.Backend == Postgres && c.BlobsURL == ""
	if needsFolder && c.DataDir == "" {
		bad = append(bad, eval.FieldError{Field: "data_dir", Message: "is needed for the backend " + c.Backend + ": name a folder that may be written"})
	}
	return c, eval.Invalid(bad)
}

func (c Config) databaseFile() string { return filepath.Join(c.DataDir, "crucible.db") }
