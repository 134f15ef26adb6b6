package rest

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/pkg/httpkit"
	"github.com/crucible-eval/crucible/pkg/problem"
	"github.com/crucible-eval/crucible/pkg/remote"
)

// stream runs and sends events: admitted, started, stdout, stderr, finished.
// What fails before the first event is an ordinary error response.
func (h *handler) stream(c echo.Context, req eval.Request) error {
	ctx, cut := context.WithCancelCause(c.Request().Context())
	defer cut(nil)
	s := &stream{c: c, cut: cut}
	stop := s.heartbeats(remote.RunHeartbeat)
	admitted := func() { s.event(eval.RunEvent{Type: eval.RunAdmitted, At: time.Now()}) }
	res, err := h.executor.RunAdmitted(ctx, req, admitted, s.event)
	if err != nil && !s.opened() {
		stop()
		return err
	}
	raw := s.encode(finished(res, err)) // a large one takes a while
	stop()
	s.write(eval.RunFinished, raw)
	return nil
}

// stream is opened by its first event.
type stream struct {
	c   echo.Context
	cut context.CancelCauseFunc

	mu     sync.Mutex
	sse    *httpkit.Stream
	broken error
}

func (s *stream) opened() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sse != nil
}

// do writes to the stream. A client that does not read, or is gone, ends the run.
func (s *stream) do(write func(*httpkit.Stream) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.broken == nil && s.sse == nil {
		s.sse, s.broken = httpkit.SSE(s.c)
	}
	if s.broken == nil {
		s.broken = write(s.sse)
	}
	if s.broken != nil {
		s.cut(fmt.Errorf("the client is gone: %w", s.broken))
	}
}

func (s *stream) encode(data any) []byte {
	raw, err := json.Marshal(data)
	if err != nil {
		s.cut(err)
	}
	return raw
}

// write sends an event, unless it could not be encoded.
func (s *stream) write(event eval.RunEventType, raw []byte) {
	if raw != nil {
		s.do(func(to *httpkit.Stream) error { return to.Send("", string(event), raw) })
	}
}

func (s *stream) event(e eval.RunEvent) { s.write(e.Type, s.encode(e)) }

// heartbeats keep a quiet stream alive until the function returned is called.
func (s *stream) heartbeats(every time.Duration) (stop func()) {
	done := make(chan struct{})
	var beating sync.WaitGroup
	beating.Go(func() {
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
				s.do((*httpkit.Stream).Heartbeat)
			}
		}
	})
	return func() { close(done); beating.Wait() }
}

// finished is the last event. The streams of a run without tests went before,
// so that only their lengths go with it.
func finished(res eval.Result, err error) remote.FinishedRun {
	last := remote.FinishedRun{Type: eval.RunFinished, At: time.Now(), Result: &res}
	res.Stdout.Data, res.Stderr.Data = nil, nil
	if err != nil {
		p := problem.From(err)
		last.Error = &p
	}
	return last
}
