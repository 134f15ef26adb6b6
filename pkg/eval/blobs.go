package eval

import (
	"context"
	"io"
)

// Blobs holds what is too large for a row, named by its content.
type Blobs interface {
	// Put stores the content and returns its SHA-256 in lower-case hex and
	// its length. The same content twice is stored once. An error from r is
	// returned and leaves nothing behind.
	Put(ctx context.Context, r io.Reader) (digest string, size int64, err error)
	// Open reads length bytes from offset, or to the end when length < 0,
	// and says how long the whole is. An offset beyond the end reads
	// nothing. KindNotFound; KindInvalid for what is not a digest.
	Open(ctx context.Context, digest string, offset, length int64) (r io.ReadCloser, size int64, err error)
	// Delete removes the content. Removing what is not there is no error.
	Delete(ctx context.Context, digest string) error
}
