package memory

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"sync"

	"github.com/crucible-eval/crucible/pkg/eval"
)

// DefaultMaxBlobBytes bounds blobs that are not told otherwise.
const DefaultMaxBlobBytes = 1 << 30

// Blobs is an [eval.Blobs] in memory.
type Blobs struct {
	// Hold, when not nil, is called with each content that is put, before it
	// is looked whether it is there: see [eval.Sweeper].
	Hold func(ctx context.Context, digest string, bytes int64) error

	max int64

	mu      sync.RWMutex
	content map[string][]byte
	total   int64
}

var _ eval.Blobs = (*Blobs)(nil)

// NewBlobs makes empty blobs that hold at most maxBytes in all, or
// [DefaultMaxBlobBytes] when that is 0. Beyond it Put answers KindFull.
func NewBlobs(maxBytes int64) *Blobs {
	if maxBytes <= 0 {
		maxBytes = DefaultMaxBlobBytes
	}
	return &Blobs{max: maxBytes, content: map[string][]byte{}}
}

// Put implements [eval.Blobs].
func (b *Blobs) Put(ctx context.Context, r io.Reader) (string, int64, error) {
	if err := ended(ctx); err != nil {
		return "", 0, err
	}
	var buf bytes.Buffer
	// What is there already needs no room, so what may be it is read on.
	if _, err := buf.ReadFrom(io.LimitReader(r, b.max+1)); err != nil {
		return "", 0, fmt.Errorf("read the content: %w", err)
	}
	sum := sha256.Sum256(buf.Bytes())
	digest, size := hex.EncodeToString(sum[:]), int64(buf.Len())
	if b.Hold != nil {
		if err := b.Hold(ctx, digest, size); err != nil {
			return "", 0, err
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, found := b.content[digest]; found {
		return digest, size, nil
	}
	if free := b.max - b.total; size > free {
		return "", 0, eval.Errorf(eval.KindFull, "the blobs in memory have room for %d bytes more of %d; keep them in files or raise the limit", free, b.max)
	}
	b.content[digest] = buf.Bytes()
	b.total += size
	return digest, size, nil
}

// Open implements [eval.Blobs].
func (b *Blobs) Open(ctx context.Context, digest string, offset, length int64) (io.ReadCloser, int64, error) {
	if err := ended(ctx); err != nil {
		return nil, 0, err
	}
	if err := eval.CheckRange(digest, offset); err != nil {
		return nil, 0, err
	}
	b.mu.RLock()
	content, found := b.content[digest]
	b.mu.RUnlock()
	if !found {
		return nil, 0, eval.NoBlob(digest)
	}
	size := int64(len(content))
	from := min(offset, size)
	to := size
	if length >= 0 {
		to = from + min(length, size-from)
	}
	return io.NopCloser(bytes.NewReader(content[from:to])), size, nil
}

// Delete implements [eval.Blobs].
func (b *Blobs) Delete(ctx context.Context, digest string) error {
	if err := ended(ctx); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.total -= int64(len(b.content[digest]))
	delete(b.content, digest)
	return nil
}
