package client

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/crucible-eval/crucible/pkg/eval"
)

const (
	longestLine    = 8 << 20 // of an event stream
	reconnectAfter = 500 * time.Millisecond
	reconnects     = 20 // in a row without an event
)

// Events reads an event stream and hands each event to each until that
// returns false, the server answers that there is no more (204), or ctx ends.
// A stream that is cut, and one that a server ends because it shuts down, is
// opened again where it was left.
func (c *Client) Events(ctx context.Context, path string, query url.Values, last string, each func(Event) bool) error {
	for failed := 0; ; {
		resp, err := c.open(ctx, path, query, last)
		if err == nil {
			var more bool
			more, last, err = read(resp.Body, last, func(e Event) bool { failed = 0; return each(e) })
			_ = resp.Body.Close()
			if !more || resp.StatusCode == http.StatusNoContent {
				return nil
			}
		} else if !away(err) {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if failed++; failed > reconnects {
			return fmt.Errorf("the event stream was cut %d times in a row: %w", failed, cmp.Or(err, io.EOF))
		}
		if failed == 1 && err == nil {
			continue // most probably that was the end, and 204 comes now
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(reconnectAfter):
		}
	}
}

// away says whether an error of a new connection is one that passes.
func away(err error) bool {
	_, unreachable := errors.AsType[*Unreachable](err)
	return unreachable || eval.IsKind(err, eval.KindStopping) || eval.IsKind(err, eval.KindUnavailable)
}

func (c *Client) open(ctx context.Context, path string, query url.Values, last string) (*http.Response, error) {
	header := http.Header{"Accept": {"text/event-stream"}}
	if last != "" {
		header.Set("Last-Event-ID", last)
	}
	return c.do(ctx, http.MethodGet, path, query, nil, header)
}

// read hands on the events of one connection. more is false when each has
// had enough; a nil error means that the server has ended it in good order.
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
