package blobstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
)

// errReader marks an error of whoever sends the content.
var errReader = errors.New("content")

type sender struct {
	ctx context.Context
	r   io.Reader
}

func readerOf(ctx context.Context, r io.Reader) io.Reader { return sender{ctx, r} }

func (s sender) Read(p []byte) (int, error) {
	if err := s.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := s.r.Read(p)
	if err != nil && err != io.EOF {
		err = fmt.Errorf("%w: %w", errReader, err)
	}
	return n, err
}

// spool reads all of r and returns it from its beginning, and how long it is.
// Closing it leaves nothing behind.
func spool(r io.Reader) (io.ReadCloser, int64, error) {
	var head bytes.Buffer
	n, err := io.CopyN(&head, r, spoolInMemory)
	if err == io.EOF {
		return io.NopCloser(&head), n, nil
	}
	if err != nil {
		return nil, 0, err
	}
	f, err := os.CreateTemp("", "crucible-blob-")
	if err != nil {
		return nil, 0, err
	}
	// Without a name it is gone when it is closed, and when the process dies.
	if err := os.Remove(f.Name()); err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	n, err = io.Copy(f, io.MultiReader(&head, r))
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	return f, n, nil
}
