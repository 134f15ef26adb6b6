package live

import (
	"context"
	"encoding/json"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/pkg/internal/outage"
)

const (
	noticeChannel = "crucible:notices"
	// watcherBuffer is how far a watcher may fall behind before it loses notices.
	watcherBuffer = 256
)

// Publish announces notices in one round trip.
func Publish(ctx context.Context, client redis.UniversalClient, notices ...eval.Notice) error {
	_, err := client.Pipelined(ctx, func(p redis.Pipeliner) error {
		for _, n := range notices {
			raw, err := json.Marshal(n)
			if err != nil {
				return err
			}
			p.Publish(ctx, noticeChannel, raw)
		}
		return nil
	})
	return err
}

// Notices is an eval.Notices over publish and subscribe. A process has one subscription, made by the first watcher,
// however many watch.
type Notices struct {
	client redis.UniversalClient
	gate   *outage.Gate

	mu       sync.Mutex
	sub      *redis.PubSub
	watchers map[chan eval.Notice]struct{}
	closed   bool
	done     sync.WaitGroup
	end      chan struct{}
}

var _ eval.Notices = (*Notices)(nil)

func newNotices(client redis.UniversalClient, gate *outage.Gate) *Notices {
	return &Notices{client: client, gate: gate, watchers: map[chan eval.Notice]struct{}{}, end: make(chan struct{})}
}

// Announce implements eval.Notices. KindUnavailable.
func (n *Notices) Announce(ctx context.Context, notice eval.Notice) error {
	return n.AnnounceAll(ctx, []eval.Notice{notice})
}

// AnnounceAll announces many in one round trip. KindUnavailable.
func (n *Notices) AnnounceAll(ctx context.Context, notices []eval.Notice) error {
	if len(notices) == 0 {
		return nil
	}
	return guarded(ctx, n.gate, func(ctx context.Context) error { return Publish(ctx, n.client, notices...) })
}

// guarded runs one short operation with the deadline and the gate.
func guarded(ctx context.Context, gate *outage.Gate, do func(context.Context) error) error {
	if !gate.Allow() {
		return closedGate()
	}
	limited, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	err := do(limited)
	if ctx.Err() == nil {
		gate.Report(err)
	}
	return unavailable(err)
}

// Watch implements eval.Notices. When Redis is away it returns all the same, and notices come once it is back.
func (n *Notices) Watch(ctx context.Context) (<-chan eval.Notice, error) {
	n.mu.Lock()
	if n.closed {
		n.mu.Unlock()
		return nil, eval.Errorf(eval.KindStopping, "notices are closed")
	}
	ch := make(chan eval.Notice, watcherBuffer)
	n.watchers[ch] = struct{}{}
	if n.sub == nil {
		n.subscribe(ctx)
	}
	n.mu.Unlock()
	n.done.Go(func() {
		select {
		case <-ctx.Done():
		case <-n.end:
		}
		n.mu.Lock()
		defer n.mu.Unlock()
		delete(n.watchers, ch)
		close(ch)
	})
	return ch, nil
}

// subscribe makes the subscription and waits a moment for it to hold, so that what is announced from now on arrives.
func (n *Notices) subscribe(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer cancel()
	n.sub = n.client.Subscribe(ctx, noticeChannel)
	_, err := n.sub.Receive(ctx)
	n.gate.Report(err)
	messages := n.sub.Channel() // reconnects by itself
	n.done.Go(func() {
		for m := range messages {
			var notice eval.Notice
			if json.Unmarshal([]byte(m.Payload), &notice) == nil {
				n.deliver(notice)
			}
		}
	})
}

func (n *Notices) deliver(notice eval.Notice) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for ch := range n.watchers {
		select {
		case ch <- notice:
		default: // too slow: it also looks at the store
		}
	}
}

// Close ends the subscription and closes all watchers' channels.
func (n *Notices) Close() error {
	n.mu.Lock()
	if n.closed {
		n.mu.Unlock()
		return nil
	}
	n.closed = true
	close(n.end)
	sub := n.sub
	n.mu.Unlock()
	var err error
	if sub != nil {
		err = sub.Close()
	}
	n.done.Wait()
	return err
}
