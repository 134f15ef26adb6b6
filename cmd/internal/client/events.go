package client

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"
)

const (
	longestLine    = 8 << 20 // of an event stream
	reconnectAfter = 500 * time.Millisecond
	reconnects     = 20 // in a row without an event
)

// Events reads an event stream and hands each event to each until that
// returns false, the stream ends by itself, or ctx does. A cut connection is
// opened again where it was left.
func (c *Client) Events(ctx context.Context, path string, query url.Values, last string, each func(Event) bool) error {
	for failed := 0; ; {
		resp, err := c.open(ctx, path, query, last)
		if err == nil {
			var more bool
			more, last, err = read(resp.Body, last, func(e Event) bool { failed = 0; return each(e) })
			_ = resp.Body.Close()
			if !more || err == nil {
				return nil
			}
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if _, ok := errors.AsType[*Unreachable](err); err != nil && !ok && resp == nil {
			return err
		}
		if failed++; failed > reconnects {
			return fmt.Errorf("the event stream was cut %d times in a row: %w", failed, err)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(reconnectAfter):
		}
	}
}

func (c *Client) open(ctx context.Context, path string, query url.Values, last string) (*http.Response, error) {
	header := http.Header{"Accept": {"text/event-stream"}}
	if last != "" {
		header.Set("Last-Event-ID", last)
	}
	return c.do(ctx, http.MethodGet, path, query, nil, header)
}

// read hands on the events of one connection. more is false when each has
// had enough; a nil error is the stream's own end.
func read(r io.Reader, last string, each func(Event) bool) (more bool, position string, err error) {
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 0, 64<<10), longestLine)
	e := Event{ID: last}
	for lines.Scan() {
		name, value, _ := bytes.Cut(lines.Bytes(), []byte(":"))
		value = bytes.TrimPrefix(value, []byte(" "))
		switch {
		case len(lines.Bytes()) == 0: // the end of an event
			last = e.ID // only now: an event that is cut comes again
			if e.Data != nil && !each(e) {
				return false, last, nil
			}
			e = Event{ID: last}
		case string(name) == "id":
			e.ID = string(value)
		case string(name) == "event":
			e.Type = string(value)
		case string(name) == "data":
			if e.Data != nil {
				e.Data = append(e.Data, '\n')
			}
			e.Data = append(e.Data, value...)
			if e.Data == nil {
				e.Data = []byte{}
			}
		}
	}
	return true, last, lines.Err()
}
