package task

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hibiken/asynq"

	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/pkg/service"
)

// Handler brings one dispatch to its end, and returns a few words about it for those who look at the queue. A
// [Failure] says how the queue should go on; a panic is an error. ctx ends when the queue takes the task away, which
// says nothing about the evaluation.
type Handler func(ctx context.Context, d eval.Dispatch) (note string, err error)

// ServerConfig are the settings of a Server.
type ServerConfig struct {
	// Concurrency is how many dispatches are in hand at once; at least 1.
	Concurrency int
	// CheckInterval is how often an idle server looks for work. It is most of the delay between a submission and its
	// start, and costs Redis one command per queue each time. 0 is 10 ms. Keep workers x 4 / interval below 2,000/s.
	CheckInterval time.Duration
}

// Server takes dispatches from the queue and gives them to a handler.
type Server struct {
	cfg     ServerConfig
	handler Handler
	log     *slog.Logger
	asynq   *asynq.Server

	mu      sync.Mutex
	started bool
	ended   chan struct{}
	failed  chan error
}

var _ service.Service = (*Server)(nil)

// NewServer returns a server of the queue in this Redis.
func NewServer(r *Redis, cfg ServerConfig, handler Handler, logger *slog.Logger) *Server {
	if logger == nil {
		logger = slog.New(slog.DiscardHandler)
	}
	if cfg.CheckInterval <= 0 {
		cfg.CheckInterval = 10 * time.Millisecond
	}
	s := &Server{cfg: cfg, handler: handler, log: logger, failed: make(chan error, 1), ended: make(chan struct{})}
	s.asynq = asynq.NewServerFromRedisClient(r.client, asynq.Config{
		Concurrency:              max(cfg.Concurrency, 1),
		Queues:                   weights,
		TaskCheckInterval:        cfg.CheckInterval,
		DelayedTaskCheckInterval: time.Second,
		// Whoever stops the server has let the handlers end before, so there is nothing to wait for but
		// acknowledgements.
		ShutdownTimeout: 5 * time.Second,
		RetryDelayFunc: func(_ int, err error, _ *asynq.Task) (d time.Duration) {
			// A panic here would end the process.
			defer func() {
				if recover() != nil {
					d = time.Second
				}
			}()
			return delayOf(err)
		},
		ErrorHandler: asynq.ErrorHandlerFunc(func(_ context.Context, t *asynq.Task, err error) {
			defer func() { _ = recover() }() // as above
			if _, told := errors.AsType[*Failure](err); !told {
				logger.Warn("queue: a task ended with an error and is tried again", "payload", string(t.Payload()), "error", err)
			}
		}),
		Logger:   &quiet{log: logger},
		LogLevel: asynq.InfoLevel,
	})
	return s
}

// Name implements service.Service.
func (s *Server) Name() string { return "queue" }

// Failed implements service.Service. A server does not end by itself.
func (s *Server) Failed() <-chan error { return s.failed }

// Start implements service.Service. Redis may be away: work comes when it is back.
func (s *Server) Start(context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.asynq.Start(asynq.HandlerFunc(s.process)); err != nil {
		return fmt.Errorf("start the queue's server: %w", err)
	}
	s.started = true
	return nil
}

// Pause takes no more dispatches from the queue, for good. Those in hand go on.
func (s *Server) Pause() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.started {
		s.asynq.Stop()
	}
}

// Stop implements service.Service. It waits for handlers for five seconds: end them before.
func (s *Server) Stop(ctx context.Context) error {
	s.mu.Lock()
	if !s.started {
		s.mu.Unlock()
		return nil
	}
	s.started = false
	s.mu.Unlock()
	go func() {
		defer close(s.ended)
		s.asynq.Stop()
		s.asynq.Shutdown()
	}()
	select {
	case <-s.ended:
		return nil
	case <-ctx.Done():
		// asynq's own timeout ends it; it must not run on when its connection is closed.
		<-s.ended
		return ctx.Err()
	}
}

// process unpacks one task.
func (s *Server) process(ctx context.Context, t *asynq.Task) error {
	var p payload
	if err := json.Unmarshal(t.Payload(), &p); err != nil || p.ID == "" {
		return fmt.Errorf("the payload is not one of ours: %w: %w", err, asynq.SkipRetry)
	}
	d := eval.Dispatch{Key: eval.Key{Project: p.Project, ID: p.ID}, Trace: t.Headers()[headerTrace]}
	if id, ok := asynq.GetTaskID(ctx); ok {
		d.Seq = seqOf(id)
	}
	if queue, ok := asynq.GetQueueName(ctx); ok {
		d.Priority = eval.Priority(queue)
	}
	note, err := s.handler(ctx, d)
	if err == nil {
		if note != "" {
			_, _ = t.ResultWriter().Write([]byte(note))
		}
		return nil
	}
	if f, ok := errors.AsType[*Failure](err); ok && f.Final {
		return fmt.Errorf("%w: %w", err, asynq.SkipRetry)
	}
	return err
}

// Redelivered says whether the queue hands this dispatch out again, after an error or after its worker died.
func Redelivered(ctx context.Context) bool {
	n, _ := asynq.GetRetryCount(ctx)
	return n > 0
}

// seqOf reads the dispatch number from a task's id; 0 when there is none.
func seqOf(taskID string) int {
	_, seq, _ := strings.Cut(taskID, ":")
	seq, _, _ = strings.Cut(seq, "+")
	n, _ := strconv.Atoi(seq)
	return n
}
