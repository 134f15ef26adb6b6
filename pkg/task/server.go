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
	// Cancel, when set, is told of a dispatch in hand that somebody cancelled with asynq's own tools: asynqmon, or
	// `asynq task cancel`. asynq itself only ends the context of the task and puts it into its list of retries. It is
	// called from one goroutine, and ctx ends with the server.
	Cancel func(ctx context.Context, d eval.Dispatch)
}

// Server takes dispatches from the queue and gives them to a handler.
type Server struct {
	cfg     ServerConfig
	handler Handler
	log     *slog.Logger
	redis   *Redis
	asynq   *asynq.Server

	mu      sync.Mutex
	started bool
	ended   chan struct{}
	failed  chan error

	hands  sync.Mutex               // its own, because asynq may wait for a handler while mu is held
	inHand map[string]eval.Dispatch // by the task's id

	endCancels context.CancelFunc
	cancels    sync.WaitGroup
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
	s := &Server{
		cfg: cfg, handler: handler, log: logger, redis: r, inHand: map[string]eval.Dispatch{},
		failed: make(chan error, 1), ended: make(chan struct{}),
	}
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
			if errors.Is(err, context.Canceled) {
				return // somebody cancelled the task, or its lease in Redis ran out: the evaluation goes its own way
			}
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
	if s.cfg.Cancel != nil {
		ctx, cancel := context.WithCancel(context.Background())
		s.endCancels = cancel
		s.cancels.Go(func() { s.followCancels(ctx) })
	}
	return nil
}

// cancelChannel is where asynq's tools name the tasks to cancel.
const cancelChannel = "asynq:cancel"

// followCancels passes on which dispatches in hand somebody cancels.
func (s *Server) followCancels(ctx context.Context) {
	sub := s.redis.client.Subscribe(ctx, cancelChannel)
	defer func() { _ = sub.Close() }()
	messages := sub.Channel() // connects again by itself
	for {
		select {
		case <-ctx.Done():
			return
		case m, open := <-messages:
			if !open {
				return
			}
			s.hands.Lock()
			d, ours := s.inHand[m.Payload]
			s.hands.Unlock()
			if ours {
				s.cfg.Cancel(ctx, d)
			}
		}
	}
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
	if s.endCancels != nil {
		s.endCancels()
	}
	go func() {
		defer close(s.ended)
		defer s.cancels.Wait()
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
	d := eval.Dispatch{Key: eval.Key{Project: p.Project, ID: p.ID}, Alone: p.Alone, Trace: t.Headers()[headerTrace]}
	id, _ := asynq.GetTaskID(ctx)
	d.Seq = seqOf(id)
	if queue, ok := asynq.GetQueueName(ctx); ok {
		d.Priority = eval.Priority(queue)
	}
	defer s.hold(id, d)()
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

// hold remembers a dispatch as in hand until release is called. A task that asynq hands out again, while the handler
// of the first time is still at work, changes nothing.
func (s *Server) hold(id string, d eval.Dispatch) (release func()) {
	s.hands.Lock()
	defer s.hands.Unlock()
	if _, held := s.inHand[id]; held {
		return func() {}
	}
	s.inHand[id] = d
	return func() {
		s.hands.Lock()
		defer s.hands.Unlock()
		delete(s.inHand, id)
	}
}

// seqOf reads the dispatch number from a task's id; 0 when there is none.
func seqOf(taskID string) int {
	_, seq, _ := strings.Cut(taskID, ":")
	seq, _, _ = strings.Cut(seq, "+")
	n, _ := strconv.Atoi(seq)
	return n
}
