package storage

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"path/filepath"
	"sync"

	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/pkg/httpkit"
	"github.com/crucible-eval/crucible/pkg/memory"
	"github.com/crucible-eval/crucible/storage/internal/blobstore"
	"github.com/crucible-eval/crucible/storage/internal/filestore"
	"github.com/crucible-eval/crucible/storage/internal/sqlstore"
)

// Backend is an open store with its blobs.
type Backend struct {
	Store eval.Store
	Blobs eval.Blobs

	kind      string
	blobs     string // what the blobs are kept in
	retention eval.Retention
	sweeper   eval.Sweeper // the store
	parts     []httpkit.Part
	sizes     func(context.Context) (*int64, error) // nil: not known
	closing   []io.Closer

	closeOnce sync.Once
	closeErr  error
}

// Open opens the backend that cfg names. It is ready, with its tables up to
// date, or an error says what to do: KindInvalid for a configuration that does
// not fit together, KindUnavailable for a database that does not answer. The
// logger may be nil.
func Open(ctx context.Context, cfg Config, logger *slog.Logger) (*Backend, error) {
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	cfg, err := cfg.check()
	if err != nil {
		return nil, err
	}
	b := &Backend{kind: cfg.Backend, retention: cfg.Retention}
	if err := errors.Join(b.openStore(ctx, cfg), b.openBlobs(ctx, cfg)); err != nil {
		return nil, errors.Join(err, b.Close())
	}
	logger.InfoContext(ctx, "storage is open", "backend", b.kind, "blobs", b.blobs)
	return b, nil
}

func (b *Backend) openStore(ctx context.Context, cfg Config) error {
	options := sqlstore.Options{Rules: cfg.Rules, Now: cfg.Now, MaxConnections: cfg.MaxConnections, Durable: cfg.Durable, Timeout: cfg.Timeout}
	switch cfg.Backend {
	case Memory:
		store := memory.NewStore(memory.Options{MaxEvaluations: cfg.MaxEvaluations, Rules: cfg.Rules, Now: cfg.Now})
		b.Store, b.sweeper = store, store
		return nil
	case File:
		store, err := filestore.Open(filepath.Join(cfg.DataDir, "evaluations"), memory.Options{MaxEvaluations: cfg.MaxEvaluations, Rules: cfg.Rules, Now: cfg.Now})
		if err != nil {
			return err
		}
		b.Store, b.sweeper = store, store
		b.closing = append(b.closing, store)
		return nil
	}
	var store *sqlstore.Store
	var err error
	if cfg.Backend == SQLite {
		store, err = sqlstore.OpenSQLite(ctx, cfg.databaseFile(), options)
	} else {
		store, err = sqlstore.OpenPostgres(ctx, cfg.DatabaseURL, cfg.AutoMigrate, options)
	}
	if err != nil {
		return err
	}
	b.Store, b.sweeper = keeper{store, cfg.Retention, store.Now}, store
	b.sizes = store.Size
	b.parts = append(b.parts, httpkit.Part{Name: "database", Try: store.Ping})
	b.closing = append(b.closing, store)
	return nil
}

func (b *Backend) openBlobs(ctx context.Context, cfg Config) error {
	if cfg.BlobsURL == "mem://" || cfg.BlobsURL == "" && cfg.Backend == Memory {
		blobs := memory.NewBlobs(0)
		blobs.Hold = b.holdBlob
		b.Blobs, b.blobs = blobs, "memory"
		return nil
	}
	var blobs *blobstore.Blobs
	var err error
	if cfg.BlobsURL == "" {
		b.blobs = "folder"
		blobs, err = blobstore.OpenFolder(filepath.Join(cfg.DataDir, "blobs"))
	} else {
		b.blobs = schemeOf(cfg.BlobsURL)
		blobs, err = blobstore.OpenURL(ctx, cfg.BlobsURL)
	}
	if err != nil {
		return err
	}
	blobs.Hold = b.holdBlob
	b.Blobs = blobs
	b.parts = append(b.parts, httpkit.Part{Name: "blobs", Try: blobs.Ping})
	b.closing = append(b.closing, blobs)
	return nil
}

func (b *Backend) holdBlob(ctx context.Context, digest string, bytes int64) error {
	return b.sweeper.HoldBlob(ctx, digest, bytes)
}

// Ready returns nil when all parts answer. KindUnavailable.
func (b *Backend) Ready(ctx context.Context) error {
	var errs []error
	for _, p := range b.parts {
		errs = append(errs, p.Try(ctx))
	}
	return errors.Join(errs...)
}

// Parts are what the storage needs to be ready: those that can be away.
func (b *Backend) Parts() []httpkit.Part { return b.parts }

// Close closes store and blobs; closing twice is fine.
func (b *Backend) Close() error {
	b.closeOnce.Do(func() {
		var errs []error
		for _, c := range b.closing {
			errs = append(errs, c.Close())
		}
		b.closeErr = errors.Join(errs...)
	})
	return b.closeErr
}
