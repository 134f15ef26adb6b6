// Package spool keeps the output of a run whole, and hands it on as it comes,
// so that who reads slowly never slows who writes.
package spool

import (
	"io"
	"sync"
	"time"

	"github.com/crucible-eval/crucible/pkg/eval"
)

const (
	// maxChunk is the most that one event carries.
	maxChunk = 64 << 10
	// maxPending is how many events may wait for a slow sink before output is
	// added to the last one of its stream, whatever came between.
	maxPending = 1024
)

// Spool keeps the stdout and stderr of one run. What it keeps is bounded by
// who writes. All methods may be called concurrently.
type Spool struct {
	sink func(eval.RunEvent)
	done chan struct{} // the pump has ended

	mu      sync.Mutex
	wake    sync.Cond
	out     []byte
	err     []byte
	pending []piece
	closed  bool
}

// piece is something that the sink has not seen: a part of a stream, or
// another event without data.
type piece struct {
	event    eval.RunEventType
	from, to int
	at       time.Time
}

// New starts handing out to sink, from a goroutine that Close waits for. A
// nil sink gets nothing.
func New(sink func(eval.RunEvent)) *Spool {
	s := &Spool{sink: sink, done: make(chan struct{})}
	s.wake.L = &s.mu
	if sink == nil {
		close(s.done)
	} else {
		go s.pump()
	}
	return s
}

// Stdout returns the writer of stdout. It never fails and never blocks.
func (s *Spool) Stdout() io.Writer { return writer{s, eval.RunStdout} }

// Stderr returns the writer of stderr.
func (s *Spool) Stderr() io.Writer { return writer{s, eval.RunStderr} }

// Started tells the sink that the program starts.
func (s *Spool) Started() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sink != nil && !s.closed {
		s.pending = append(s.pending, piece{event: eval.RunStarted, at: time.Now()})
		s.wake.Signal()
	}
}

type writer struct {
	s     *Spool
	event eval.RunEventType
}

func (w writer) Write(b []byte) (int, error) {
	s := w.s
	s.mu.Lock()
	defer s.mu.Unlock()
	data := s.stream(w.event)
	from := len(*data)
	*data = append(*data, b...)
	if s.sink != nil && len(b) > 0 {
		s.note(w.event, from, from+len(b))
		s.wake.Signal()
	}
	return len(b), nil
}

func (s *Spool) stream(event eval.RunEventType) *[]byte {
	if event == eval.RunStderr {
		return &s.err
	}
	return &s.out
}

func (s *Spool) note(event eval.RunEventType, from, to int) {
	if n := len(s.pending); n > 0 && s.pending[n-1].event == event {
		s.pending[n-1].to = to
		return
	}
	if len(s.pending) >= maxPending {
		for i := len(s.pending) - 1; i >= 0; i-- {
			if s.pending[i].event == event {
				s.pending[i].to = to
				return
			}
		}
	}
	s.pending = append(s.pending, piece{event, from, to, time.Now()})
}

// pump calls the sink until the spool is closed and the sink has all.
func (s *Spool) pump() {
	defer close(s.done)
	for {
		event, ok := s.next()
		if !ok {
			return
		}
		s.sink(event)
	}
}

func (s *Spool) next() (eval.RunEvent, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.pending) == 0 {
		if s.closed {
			return eval.RunEvent{}, false
		}
		s.wake.Wait()
	}
	p := &s.pending[0]
	to := min(p.to, p.from+maxChunk)
	event := eval.RunEvent{Type: p.event, At: p.at}
	if to > p.from {
		// Written bytes never change, so the slice stays good as data grows.
		event.Data = (*s.stream(p.event))[p.from:to:to]
	}
	if p.from = to; p.from == p.to {
		s.pending = s.pending[1:]
	}
	return event, true
}

// Close says that no more is written, and returns when the sink has all.
// Closing twice is fine.
func (s *Spool) Close() {
	s.mu.Lock()
	s.closed = true
	s.wake.Signal()
	s.mu.Unlock()
	<-s.done
}

// Streams returns what was kept, after Close.
func (s *Spool) Streams() (stdout, stderr eval.Stream) {
	return eval.Stream{Data: s.out, Bytes: int64(len(s.out))}, eval.Stream{Data: s.err, Bytes: int64(len(s.err))}
}
