package quota

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/go-redis/redis_rate/v10"
	"github.com/redis/go-redis/v9"
	"golang.org/x/time/rate"
)

const (
	// ratePatience bounds the question to Redis. Each submission of a client
	// with a rate waits for it.
	ratePatience = 250 * time.Millisecond
	// ratePause is how long Redis is not asked again after it failed.
	ratePause = time.Second
	rateKey   = "crucible:quota:"
)

// rates grants evaluations at a rate: by one bucket for all replicas, in
// Redis, or by one of its own while that is away. The bucket is that of the
// generic cell rate algorithm (ITU-T I.371), on the clock of Redis.
type rates struct {
	shared *redis_rate.Limiter // nil: this process is the only one
	log    *slog.Logger

	mu    sync.Mutex
	own   map[string]*rate.Limiter
	until time.Time // Redis is not asked before
}

func newRates(client *redis.Client, log *slog.Logger) *rates {
	r := &rates{log: log, own: map[string]*rate.Limiter{}}
	if client != nil {
		r.shared = redis_rate.NewLimiter(client)
	}
	return r
}

// take takes n from the client's bucket and returns 0, or takes nothing and
// returns when there will be enough.
func (r *rates) take(ctx context.Context, client string, l Limits, n int) time.Duration {
	if l.Rate <= 0 {
		return 0
	}
	if r.shared != nil && r.reachable() {
		ctx, cancel := context.WithTimeout(ctx, ratePatience)
		defer cancel()
		got, err := r.shared.AllowN(ctx, rateKey+client,
			redis_rate.Limit{Rate: 1, Period: time.Duration(float64(time.Second) / l.Rate), Burst: l.burst()}, n)
		switch {
		case err == nil && got.Allowed > 0:
			return 0
		case err == nil:
			return max(got.RetryAfter, time.Millisecond)
		}
		r.away(err)
	}
	return r.takeOwn(client, l, n)
}

// takeOwn uses the bucket of this process.
func (r *rates) takeOwn(client string, l Limits, n int) time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	bucket := r.own[client] // as many as there are API keys
	if bucket == nil {
		bucket = rate.NewLimiter(rate.Limit(l.Rate), l.burst())
		r.own[client] = bucket
	}
	now := time.Now()
	if bucket.AllowN(now, n) {
		return 0
	}
	missing := float64(n) - bucket.TokensAt(now)
	return max(time.Duration(missing/l.Rate*float64(time.Second)), time.Millisecond)
}

func (r *rates) reachable() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return !time.Now().Before(r.until)
}

func (r *rates) away(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.until = time.Now().Add(ratePause)
	r.log.Debug("rates: Redis does not answer; this process grants them by itself for a moment", "err", err)
}
