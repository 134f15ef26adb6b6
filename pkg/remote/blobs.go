package remote

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/pkg/problem"
)

// Blobs is an [eval.Blobs] at a storage service. Content is streamed both
// ways and never held whole.
type Blobs struct {
	base   string
	token  string
	client *http.Client
}

var _ eval.Blobs = (*Blobs)(nil)

// NewBlobs returns the blobs that the storage service at url has. token may be
// empty, and client nil; a client must not bound the time of a whole transfer.
func NewBlobs(url, token string, client *http.Client) *Blobs {
	if client == nil {
		t := newTransport()
		t.ResponseHeaderTimeout = DefaultTimeout
		client = &http.Client{Transport: t}
	}
	return &Blobs{base: strings.TrimSuffix(url, "/"), token: token, client: client}
}

// Close closes idle connections.
func (b *Blobs) Close() error {
	b.client.CloseIdleConnections()
	return nil
}

func (b *Blobs) request(ctx context.Context, method, path string, body io.Reader) (*http.Response, error) {
	r, err := http.NewRequestWithContext(ctx, method, b.base+BlobsPath+path, body)
	if err != nil {
		return nil, eval.Errorf(eval.KindInvalid, "the URL of the storage service is wrong: %w", err)
	}
	if body != nil {
		r.Header.Set("Content-Type", "application/octet-stream")
	}
	introduce(r, b.token)
	resp, err := b.client.Do(r)
	if err != nil {
		return nil, unreachable(b.base, err)
	}
	if resp.StatusCode/100 != 2 {
		defer func() { _ = resp.Body.Close() }()
		return nil, problem.Decode(resp)
	}
	return resp, nil
}

// source remembers why the content could not be read, which is not the
// service's fault.
type source struct {
	io.Reader
	err error
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.Reader.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		s.err = err
	}
	return n, err
}

// Put implements [eval.Blobs].
func (b *Blobs) Put(ctx context.Context, r io.Reader) (string, int64, error) {
	content := &source{Reader: r}
	// The pipe lets Put return only after the last read of content.
	body, feed := io.Pipe()
	copied := make(chan struct{})
	go func() {
		defer close(copied)
		_, err := io.Copy(feed, content)
		_ = feed.CloseWithError(err)
	}()
	resp, err := b.request(ctx, http.MethodPost, "", body)
	_ = body.CloseWithError(io.ErrClosedPipe)
	<-copied
	if content.err != nil {
		if err == nil {
			_ = resp.Body.Close()
		}
		return "", 0, fmt.Errorf("read the content: %w", content.err)
	}
	if err != nil {
		return "", 0, err
	}
	defer func() { _ = resp.Body.Close() }()
	var answer BlobAnswer
	if err := json.NewDecoder(io.LimitReader(resp.Body, 1<<10)).Decode(&answer); err != nil {
		return "", 0, unreachable(b.base, err)
	}
	return answer.Digest, answer.Size, nil
}

// Open implements [eval.Blobs].
func (b *Blobs) Open(ctx context.Context, digest string, offset, length int64) (io.ReadCloser, int64, error) {
	if err := eval.CheckRange(digest, offset); err != nil {
		return nil, 0, err
	}
	part := url.Values{"offset": {strconv.FormatInt(offset, 10)}, "length": {strconv.FormatInt(length, 10)}}
	resp, err := b.request(ctx, http.MethodGet, "/"+digest+"?"+part.Encode(), nil)
	if err != nil {
		return nil, 0, err
	}
	size, err := strconv.ParseInt(resp.Header.Get(BlobSizeHeader), 10, 64)
	if err != nil {
		_ = resp.Body.Close()
		return nil, 0, eval.Errorf(eval.KindInternal, "the storage service at %s does not say how long the blob is: %w", b.base, err)
	}
	return resp.Body, size, nil
}

// Delete implements [eval.Blobs].
func (b *Blobs) Delete(ctx context.Context, digest string) error {
	if eval.CheckRange(digest, 0) != nil {
		return nil // what is not a digest names nothing
	}
	resp, err := b.request(ctx, http.MethodDelete, "/"+digest, nil)
	if err != nil {
		return err
	}
	return resp.Body.Close()
}
