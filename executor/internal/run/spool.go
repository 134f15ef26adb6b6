package run

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

// spool keeps the output of a run, whole, and hands it to a sink as it comes.
// The program never waits for the sink. What it keeps is bounded by the
// output limit, which the sandbox enforces.
type spool struct {
	sink func(eval.RunEvent)
	done chan struct{} // the pump has ended

	mu      sync.Mutex
	wake    sync.Cond
	data    map[eval.RunEventType][]byte
	pending []piece
	closed  bool
}

// piece is a part of a stream that the sink has not seen.
type piece struct {
	stream   eval.RunEventType
	from, to int
	at       time.Time
}

// newSpool starts handing out to sink; nil: it only keeps.
func newSpool(sink func(eval.RunEvent)) *spool {
	s := &spool{sink: sink, data: map[eval.RunEventType][]byte{}, done: make(chan struct{})}
	s.wake.L = &s.mu
	if sink == nil {
		close(s.done)
	} else {
		go s.pump()
	}
	return s
}

// writer returns where a stream's bytes go.
func (s *spool) writer(stream eval.RunEventType) io.Writer { return spoolWriter{s, stream} }

type spoolWriter struct {
	s      *spool
	stream eval.RunEventType
}

func (w spoolWriter) Write(b []byte) (int, error) {
	s := w.s
	s.mu.Lock()
	defer s.mu.Unlock()
	from := len(s.data[w.stream])
	s.data[w.stream] = append(s.data[w.stream], b...)
	if s.sink != nil {
		s.note(w.stream, from, from+len(b))
		s.wake.Signal()
	}
	return len(b), nil
}

func (s *spool) note(stream eval.RunEventType, from, to int) {
	if n := len(s.pending); n > 0 && s.pending[n-1].stream == stream {
		s.pending[n-1].to = to
		return
	}
	if len(s.pending) >= maxPending {
		for i := len(s.pending) - 1; i >= 0; i-- {
			if s.pending[i].stream == stream {
				s.pending[i].to = to
				return
			}
		}
	}
	s.pending = append(s.pending, piece{stream, from, to, time.Now()})
}

// pump calls the sink until the spool is closed and the sink has all.
func (s *spool) pump() {
	defer close(s.done)
	for {
		s.mu.Lock()
		for len(s.pending) == 0 && !s.closed {
			s.wake.Wait()
		}
		if len(s.pending) == 0 {
			s.mu.Unlock()
			return
		}
		p := &s.pending[0]
		to := min(p.to, p.from+maxChunk)
		// Written bytes never change, so the slice stays good as data grows.
		event := eval.RunEvent{Type: p.stream, Data: s.data[p.stream][p.from:to:to], At: p.at}
		if p.from = to; p.from == p.to {
			s.pending = s.pending[1:]
		}
		s.mu.Unlock()
		s.sink(event)
	}
}

// close says that no more is written, and waits until the sink has all.
func (s *spool) close() {
	s.mu.Lock()
	s.closed = true
	s.wake.Signal()
	s.mu.Unlock()
	<-s.done
}

// stream returns what was kept of a stream, after close.
func (s *spool) stream(stream eval.RunEventType) eval.Stream {
	data := s.data[stream]
	return eval.Stream{Data: data, Bytes: int64(len(data))}
}
