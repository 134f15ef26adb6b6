package task

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"github.com/crucible-eval/crucible/pkg/eval"
)

// RedisConfig says which Redis to use.
type RedisConfig struct {
	// URL is redis://[user:password@]host:port/db, rediss:// for TLS, or unix:///path/to/socket?db=0. Empty means a
	// Redis inside this process.
	URL string
	// Embedded asks for the Redis inside this process although there is a URL.
	Embedded bool
	// PoolSize bounds the connections of this process; 0 is 256. A worker needs its concurrency and 10 more.
	PoolSize int
	// Dial, when set, opens connections in place of the network. The Redis is taken as it is: nothing is checked.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
}

// Redis is a connection to the Redis that the queue lives in, and what this process knows about it.
type Redis struct {
	log     *slog.Logger
	options *redis.Options
	client  *redis.Client
	memory  *embedded // nil for a real Redis

	mu      sync.Mutex
	checked bool  // the checks have passed
	problem error // why it cannot be used, or has not been seen yet

	cancel context.CancelFunc
	done   sync.WaitGroup
	once   sync.Once
}

// Open connects to the Redis of the configuration, or starts one in this process. A Redis that cannot be used as a
// queue (it may evict keys, or is too old) is refused with an error that says what to set. A Redis that does not
// answer is no error: it is tried again until it does, and [Redis.Ready] tells. Close it after use.
func Open(ctx context.Context, cfg RedisConfig, logger *slog.Logger) (*Redis, error) {
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	silence()
	r := &Redis{log: logger}
	var err error
	switch {
	case cfg.Dial != nil:
		r.options = &redis.Options{Addr: "in-process", Dialer: cfg.Dial}
		r.checked = true
	case cfg.Embedded || cfg.URL == "":
		if r.memory, err = startEmbedded(); err != nil {
			return nil, err
		}
		r.options = &redis.Options{Addr: r.memory.addr(), Password: r.memory.password}
		r.checked = true
		logger.Info("queue: Redis inside this process, in memory only; evaluations are safe in the store, and are queued again after a restart")
	default:
		if r.options, err = redis.ParseURL(cfg.URL); err != nil {
			return nil, eval.Errorf(eval.KindInvalid, "the Redis URL is not valid: use redis://[user:password@]host:port/db, rediss://... or unix:///path/to/socket: %w", redactURL(err, cfg.URL))
		}
		r.problem = eval.Errorf(eval.KindUnavailable, "Redis at %s has not answered yet; check that it runs, and that the Redis URL names it", r.options.Addr)
	}
	tune(r.options, cfg.PoolSize)
	r.client = redis.NewClient(r.options)
	runCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	r.cancel = cancel
	if r.memory != nil {
		r.done.Go(func() { r.memory.tick(runCtx) })
	}
	if !r.checked {
		first, stop := context.WithTimeout(ctx, 2*time.Second)
		err := r.check(first)
		stop()
		if err != nil && !eval.IsKind(err, eval.KindUnavailable) {
			_ = r.Close()
			return nil, err
		}
		if err != nil {
			logger.Warn("queue: Redis does not answer; what is submitted runs when it does", "addr", r.options.Addr, "error", err)
			r.done.Go(func() { r.checkLater(runCtx) })
		}
	}
	return r, nil
}

// tune sets what go-redis leaves open: deadlines of contexts hold, and a Redis that is down fails fast, because the
// callers here have a better use for the time than waiting for it.
func tune(o *redis.Options, poolSize int) {
	if poolSize <= 0 {
		poolSize = 256
	}
	o.PoolSize = poolSize
	o.ContextTimeoutEnabled = true
	o.DialTimeout = time.Second
	o.DialerRetries = 1
	o.MaxRetries = 1
	// asynq polls again at once after an error; this pause is what keeps it from spinning.
	o.MinRetryBackoff, o.MaxRetryBackoff = 50*time.Millisecond, 100*time.Millisecond
	o.ConnMaxIdleTime = 5 * time.Minute
	o.DisableIdentity = true
	o.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
}

// redactURL keeps the password of a URL out of the message of its parser.
func redactURL(err error, url string) error {
	return fmt.Errorf("%s", strings.ReplaceAll(err.Error(), url, "(the URL)"))
}

// Client returns the connection, for what else lives in this Redis. It ends with Close.
func (r *Redis) Client() *redis.Client { return r.client }

// Embedded says whether the Redis lives inside this process.
func (r *Redis) Embedded() bool { return r.memory != nil }

// Addr is where the Redis listens, without credentials.
func (r *Redis) Addr() string { return r.options.Addr }

// ConnOpt returns what asynq's own tools, such as asynqmon, need to connect.
func (r *Redis) ConnOpt() asynq.RedisConnOpt { return connOpt{r.options} }

type connOpt struct{ options *redis.Options }

// MakeRedisClient implements asynq.RedisConnOpt.
func (c connOpt) MakeRedisClient() any {
	o := *c.options
	o.PoolSize = 8
	return redis.NewClient(&o)
}

// Ready returns nil when the Redis answers and may be used, else why not: KindUnavailable.
func (r *Redis) Ready(ctx context.Context) error {
	if err := r.usable(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
	defer cancel()
	return unavailable(r.client.Ping(ctx).Err())
}

// usable tells what the checks said, without asking Redis.
func (r *Redis) usable() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.checked {
		return nil
	}
	return r.problem
}

// Close ends the connection, and the embedded Redis with all that is in it.
func (r *Redis) Close() error {
	var err error
	r.once.Do(func() {
		r.cancel()
		r.done.Wait()
		err = r.client.Close()
		if r.memory != nil {
			r.memory.server.Close()
		}
	})
	return err
}

func unavailable(err error) error {
	if err == nil {
		return nil
	}
	return eval.Errorf(eval.KindUnavailable, "the queue's Redis cannot be reached; what is accepted meanwhile runs when it is back: %w", err)
}
