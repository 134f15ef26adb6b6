// Package blobstore keeps blobs in a bucket of gocloud.dev/blob: a folder, or
// S3 and what speaks like it.
package blobstore

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"gocloud.dev/blob"
	"gocloud.dev/blob/fileblob"
	_ "gocloud.dev/blob/s3blob" // s3://bucket
	"gocloud.dev/gcerrors"

	"github.com/crucible-eval/crucible/pkg/eval"
)

// spoolInMemory is how much of a content is held in memory while its digest
// is not known yet; what is longer waits in a temporary file.
const spoolInMemory = 256 << 10

// Blobs is an [eval.Blobs] in a bucket. A blob's name is its digest, below a
// folder of the digest's first two digits.
type Blobs struct {
	// Hold, when not nil, is called with each content that is put, before it
	// is looked whether it is there: see [eval.Sweeper].
	Hold func(ctx context.Context, digest string, bytes int64) error

	bucket *blob.Bucket
	folder string // of a bucket in the file system
}

var _ eval.Blobs = (*Blobs)(nil)

// OpenFolder opens the blobs in a folder, made when missing.
func OpenFolder(path string) (*Blobs, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("the folder of the blobs cannot be made: %w", err)
	}
	if err := sweep(path); err != nil {
		return nil, fmt.Errorf("clean the folder of the blobs: %w", err)
	}
	// Temporary files lie beside the blobs, so that the last step is a rename.
	bucket, err := fileblob.OpenBucket(path, &fileblob.Options{NoTempDir: true, Metadata: fileblob.MetadataDontWrite, DirFileMode: 0o700})
	if err != nil {
		return nil, fmt.Errorf("open the folder of the blobs: %w", err)
	}
	return &Blobs{bucket: bucket, folder: path}, nil
}

// abandoned is the age at which nobody can still be writing a temporary file.
const abandoned = 24 * time.Hour

// sweep removes what processes that were killed have left half-written.
func sweep(folder string) error {
	left, err := filepath.Glob(filepath.Join(folder, "??", "*.tmp"))
	if err != nil {
		return err
	}
	for _, path := range left {
		info, err := os.Stat(path)
		if err == nil && time.Since(info.ModTime()) > abandoned {
			err = os.Remove(path)
		}
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

// OpenURL opens the bucket that url names: file:///folder or s3://bucket?region=...
func OpenURL(ctx context.Context, address string) (*Blobs, error) {
	u, err := url.Parse(address)
	if err != nil {
		return nil, eval.Errorf(eval.KindInvalid, "the URL of the blobs cannot be read; use file:///folder, mem:// or s3://bucket?region=...: %w", err)
	}
	if u.Scheme == "file" {
		return OpenFolder(filepath.FromSlash(u.Path))
	}
	bucket, err := blob.OpenBucket(ctx, address)
	if err != nil {
		return nil, eval.Errorf(eval.KindInvalid, "the bucket of the blobs cannot be opened; check its URL and credentials: %w", err)
	}
	return &Blobs{bucket: bucket}, nil
}

// Close closes the bucket.
func (b *Blobs) Close() error { return b.bucket.Close() }

// Ping returns nil when the bucket answers. KindUnavailable.
func (b *Blobs) Ping(ctx context.Context) error {
	ok, err := b.bucket.IsAccessible(ctx)
	if err == nil && !ok {
		err = errors.New("it does not exist, or access is refused")
	}
	return fail(ctx, "reach the bucket", err)
}

func name(digest string) string { return digest[:2] + "/" + digest }

// Put implements [eval.Blobs]. The digest is the name, so the content is
// spooled until it is known; the bucket shows a blob only when it is whole.
func (b *Blobs) Put(ctx context.Context, r io.Reader) (digest string, size int64, err error) {
	sum := sha256.New()
	content, size, err := spool(io.TeeReader(readerOf(ctx, r), sum))
	if err != nil {
		return "", 0, fail(ctx, "receive the content", err)
	}
	defer func() { _ = content.Close() }()
	digest = hex.EncodeToString(sum.Sum(nil))
	if b.Hold != nil {
		if err := b.Hold(ctx, digest, size); err != nil {
			return "", 0, err
		}
	}
	there, err := b.bucket.Attributes(ctx, name(digest))
	if err == nil && there.Size == size {
		return digest, size, nil
	}
	if err != nil && gcerrors.Code(err) != gcerrors.NotFound {
		return "", 0, fail(ctx, "look for the blob", err)
	}
	if err := b.write(ctx, digest, size, content); err != nil {
		return "", 0, fail(ctx, "write the blob", err)
	}
	return digest, size, nil
}

// write copies the content into the bucket, and gives up before it shows when
// that is not what was received.
func (b *Blobs) write(ctx context.Context, digest string, size int64, content io.Reader) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w, err := b.bucket.NewWriter(ctx, name(digest), &blob.WriterOptions{ContentType: "application/octet-stream"})
	if err != nil {
		return err
	}
	sum := sha256.New()
	n, err := io.Copy(w, io.TeeReader(content, sum))
	if err == nil && (n != size || hex.EncodeToString(sum.Sum(nil)) != digest) {
		err = errors.New("the spooled content changed while it was copied: the disk may be broken")
	}
	if err != nil {
		cancel() // makes Close drop what was written
		_ = w.Close()
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	return b.sync(digest)
}

// sync waits until a file is on the disk, so that no row ever names a blob
// that a power cut has taken.
func (b *Blobs) sync(digest string) error {
	if b.folder == "" {
		return nil
	}
	for _, path := range []string{filepath.FromSlash(name(digest)), digest[:2]} {
		f, err := os.Open(filepath.Join(b.folder, path))
		if err != nil {
			return err
		}
		if err := errors.Join(f.Sync(), f.Close()); err != nil {
			return err
		}
	}
	return nil
}

// Open implements [eval.Blobs].
func (b *Blobs) Open(ctx context.Context, digest string, offset, length int64) (io.ReadCloser, int64, error) {
	if err := eval.CheckRange(digest, offset); err != nil {
		return nil, 0, err
	}
	there, err := b.bucket.Attributes(ctx, name(digest))
	if gcerrors.Code(err) == gcerrors.NotFound {
		return nil, 0, eval.NoBlob(digest)
	}
	if err != nil {
		return nil, 0, fail(ctx, "read the blob", err)
	}
	left := max(there.Size-offset, 0)
	if length < 0 || length > left {
		length = left
	}
	if length == 0 {
		return io.NopCloser(bytes.NewReader(nil)), there.Size, nil
	}
	r, err := b.bucket.NewRangeReader(ctx, name(digest), offset, length, nil)
	if err != nil {
		return nil, 0, fail(ctx, "read the blob", err)
	}
	return r, there.Size, nil
}

// Delete implements [eval.Blobs].
func (b *Blobs) Delete(ctx context.Context, digest string) error {
	if eval.CheckRange(digest, 0) != nil {
		return nil // what is not a digest names nothing
	}
	err := b.bucket.Delete(ctx, name(digest))
	if gcerrors.Code(err) == gcerrors.NotFound {
		return nil
	}
	return fail(ctx, "delete the blob", err)
}

// fail gives an error of the bucket a kind.
func fail(ctx context.Context, what string, err error) error {
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[*eval.Error](err); ok {
		return err
	}
	e := &eval.Error{Kind: eval.KindInternal, Message: "the blobs failed to " + what, Err: err}
	switch code := gcerrors.Code(err); {
	case ctx.Err() != nil:
		e.Kind, e.Message = eval.KindUnavailable, "the request has ended"
	case errors.Is(err, errReader):
		e.Message = "the content could not be read to its end; nothing was kept"
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		e.Kind, e.RetryAfter, e.Message = eval.KindUnavailable, 30*time.Second, "the disk of the blobs is full; nothing was written: make room there"
	case code == gcerrors.PermissionDenied, code == gcerrors.NotFound, errors.Is(err, os.ErrPermission):
		e.Kind, e.RetryAfter, e.Message = eval.KindUnavailable, 30*time.Second, "the blobs refuse access; check their folder, or the bucket and its credentials"
	case code != gcerrors.InvalidArgument:
		e.Kind, e.RetryAfter, e.Message = eval.KindUnavailable, 2*time.Second, "the blobs cannot be reached; the request can be sent again"
	}
	return e
}
