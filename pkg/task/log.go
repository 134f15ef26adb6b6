package task

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"
)

// quiet turns what asynq says into slog. Its informational lines are details of ours. While Redis is away it repeats
// its errors every second, and our own lines tell about that once: so at most one a minute is a warning.
type quiet struct {
	log *slog.Logger

	mu   sync.Mutex
	last time.Time
}

func (q *quiet) Debug(...any)      {}
func (q *quiet) Info(args ...any)  { q.log.Debug("asynq: " + fmt.Sprint(args...)) }
func (q *quiet) Warn(args ...any)  { q.log.Debug("asynq: " + fmt.Sprint(args...)) }
func (q *quiet) Fatal(args ...any) { q.log.Error("asynq: " + fmt.Sprint(args...)) }

func (q *quiet) Error(args ...any) {
	level := slog.LevelDebug
	q.mu.Lock()
	if now := time.Now(); now.Sub(q.last) > time.Minute {
		q.last, level = now, slog.LevelWarn
	}
	q.mu.Unlock()
	q.log.Log(context.Background(), level, "asynq: "+fmt.Sprint(args...))
}

// silence stops go-redis from writing a line to stderr for each connection that fails: the errors come back to the
// callers, who tell once. go-redis has no other place to set this than the whole process.
var silence = sync.OnceFunc(func() { redis.SetLogger(nothing{}) })

type nothing struct{}

func (nothing) Printf(context.Context, string, ...any) {}
