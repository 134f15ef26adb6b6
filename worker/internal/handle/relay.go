package handle

import (
	"context"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/crucible-eval/crucible/pkg/eval"
)

const (
	// relayEvery is the least time between two batches: what a person sees as at once.
	relayEvery = 25 * time.Millisecond
	// relayChunk is the most of one chunk.
	relayChunk = 16 << 10
	// relayBuffer is how much may wait. What comes beyond it is not shown live, and leaves a gap in the offsets.
	relayBuffer = 1 << 20
)

// relay carries the output of one attempt to those who watch, in batches, beside the run and never in its way.
type relay struct {
	log     eval.OutputLog
	key     eval.Key
	attempt int
	lost    prometheus.Counter

	mu      sync.Mutex
	offsets map[string]int64
	waiting []eval.OutputChunk
	size    int
	started bool
	closed  bool
	signal  chan struct{} // something waits
	end     chan struct{} // no more will come
	done    chan struct{} // all is sent
}

func newRelay(log eval.OutputLog, key eval.Key, attempt int, lost prometheus.Counter) *relay {
	return &relay{
		log: log, key: key, attempt: attempt, lost: lost, offsets: map[string]int64{},
		signal: make(chan struct{}, 1), end: make(chan struct{}), done: make(chan struct{}),
	}
}

// event takes an event of the run. It never waits.
func (r *relay) event(e eval.RunEvent) {
	if len(e.Data) == 0 || e.Type != eval.RunStdout && e.Type != eval.RunStderr {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return
	}
	stream, data := string(e.Type), e.Data
	for len(data) > 0 {
		n := r.add(stream, data, e.At)
		r.offsets[stream] += int64(n)
		data = data[n:]
	}
	if !r.started {
		r.started = true
		go r.send()
	}
	select {
	case r.signal <- struct{}{}:
	default:
	}
}

// add takes a part of the data, and returns how much that was.
func (r *relay) add(stream string, data []byte, at time.Time) int {
	if r.size >= relayBuffer {
		r.lost.Add(float64(len(data)))
		return len(data)
	}
	offset := r.offsets[stream]
	if n := len(r.waiting); n > 0 {
		last := &r.waiting[n-1]
		if last.Stream == stream && len(last.Data) < relayChunk && last.Offset+int64(len(last.Data)) == offset {
			part := min(len(data), relayChunk-len(last.Data))
			last.Data = append(last.Data, data[:part]...)
			r.size += part
			return part
		}
	}
	part := min(len(data), relayChunk)
	r.waiting = append(r.waiting, eval.OutputChunk{
		Attempt: r.attempt, Stream: stream, Offset: offset, Data: append(eval.Bytes(nil), data[:part]...), At: at,
	})
	r.size += part
	return part
}

// send passes batches on until the relay is closed and empty.
func (r *relay) send() {
	defer close(r.done)
	for open := true; open; {
		select {
		case <-r.signal:
		case <-r.end:
			open = false
		}
		r.mu.Lock()
		batch := r.waiting
		r.waiting, r.size = nil, 0
		r.mu.Unlock()
		for _, c := range batch {
			if r.log.Append(context.Background(), r.key, c) != nil {
				// Redis is away, and has said so in the log. What is left of the batch would fail in the same way.
				r.lost.Add(float64(len(c.Data)))
				break
			}
		}
		if open {
			select {
			case <-time.After(relayEvery):
			case <-r.end:
			}
		}
	}
}

// close sends what waits and returns, after a quarter of a second at the latest where Redis does not answer: that is
// as long as an Append takes, and those after it fail at once.
func (r *relay) close() {
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		return
	}
	r.closed = true
	started := r.started
	r.mu.Unlock()
	close(r.end)
	if started {
		<-r.done
	}
}
