// Package reconcile keeps the queue true to the store: what is queued in the store is queued in Redis, and what
// runs has a worker that renews its lease. Every worker process does it, without a leader: the store hands no
// evaluation to two of them.
package reconcile

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/pkg/service"
)

const (
	batch = 200 // evaluations per question to the store
	most  = 50  // questions per round
	// patience bounds one call of the store.
	patience = 10 * time.Second
	// redisPatience bounds one call of Redis. It is short, because lost workers are looked for between those calls.
	redisPatience = time.Second
	// healEvery is how often asynq's list of queues is put right.
	healEvery = 10 * time.Second
)

// Redis is what is asked of the queue's Redis: a *task.Redis.
type Redis interface {
	Lost(ctx context.Context) (bool, error)
	Found(ctx context.Context) error
	Heal(ctx context.Context) error
}

// Queue is what dispatches are given to: a *task.Queue.
type Queue interface {
	// EnqueueAll enqueues all; what waits in the queue already is left alone. KindUnavailable.
	EnqueueAll(ctx context.Context, all []eval.Dispatch) error
}

// Roster is who is asked for the workers: an [eval.Roster].
type Roster interface {
	Workers(ctx context.Context) ([]eval.WorkerInfo, error)
}

// Config are the numbers of a Reconciler.
type Config struct {
	Every time.Duration // between two rounds, give or take a fifth
	// Again is after what time a queued evaluation that was enqueued is looked at again: how long one stays
	// unnoticed that the queue has lost without a trace.
	Again time.Duration
	// Worker and Slots are whose reconciler this is.
	Worker string
	Slots  int
	// Window is how many evaluations of one priority wait in the queue at least, when more wait in the store. More do
	// where there are many slots, or where they are taken quickly.
	Window int
}

// Deps is what a Reconciler works with.
type Deps struct {
	Store    eval.Scheduler
	Queue    Queue
	Redis    Redis
	Roster   Roster
	Logger   *slog.Logger
	Registry *prometheus.Registry
}

// Reconciler is a loop; see [Reconciler.Run].
type Reconciler struct {
	cfg  Config
	deps Deps
	log  *slog.Logger

	store  outage
	redis  outage
	rewind bool // what is queued in the store must be enqueued again
	healed time.Time
	pace   pace

	dispatched *prometheus.CounterVec
	reaped     *prometheus.CounterVec
	rewinds    prometheus.Counter
	errors     *prometheus.CounterVec
	rounds     prometheus.Histogram
}

// New returns a Reconciler.
func New(cfg Config, deps Deps) *Reconciler {
	r := &Reconciler{
		cfg: cfg, deps: deps, log: deps.Logger,
		pace:  newPace(cfg.Slots),
		store: outage{what: "store", log: deps.Logger}, redis: outage{what: "queue", log: deps.Logger},
		dispatched: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "crucible_reconcile_redispatched_total", Help: "Evaluations that the reconciler gave to the queue, by reason: turn, retry, again (is it still there?), queue_lost.",
		}, []string{"reason"}),
		reaped: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "crucible_reconcile_reaped_total", Help: "Evaluations taken from workers that vanished, by their status after it.",
		}, []string{"status"}),
		rewinds: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "crucible_reconcile_rewinds_total", Help: "Times that the queue was found lost and filled again from the store.",
		}),
		errors: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "crucible_reconcile_errors_total", Help: "Rounds that met an error, by what failed.",
		}, []string{"part"}),
		rounds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "crucible_reconcile_round_seconds", Help: "Time of one round.", Buckets: prometheus.ExponentialBuckets(.0005, 4, 8),
		}),
	}
	deps.Registry.MustRegister(r.dispatched, r.reaped, r.rewinds, r.errors, r.rounds)
	return r
}

// Run does a round every so often until ctx ends, and in between it feeds the queue when workers have taken from it.
// While the store or Redis is away, the time between rounds grows to two seconds.
func (r *Reconciler) Run(ctx context.Context) error {
	pause, next := r.cfg.Every, time.Now()
	for ctx.Err() == nil {
		service.Beat(ctx)
		if began := time.Now(); !began.Before(next) {
			r.pace.measure(ctx, r.deps.Roster, r.cfg, began)
			if r.round(ctx) {
				pause = r.cfg.Every
			} else {
				pause = min(2*pause, max(2*time.Second, r.cfg.Every))
			}
			r.rounds.Observe(time.Since(began).Seconds())
			next = time.Now().Add(pause*4/5 + time.Duration(rand.Int64N(int64(pause)*2/5+1)))
		} else if !r.rewind { // else the next round has more to do
			_, err := r.feed(ctx, false)
			r.noteQueue(err)
		}
		r.rest(ctx, next)
	}
	return nil
}

// rest waits for the next round, or until the queue has to be fed.
func (r *Reconciler) rest(ctx context.Context, next time.Time) {
	timer := time.NewTimer(time.Until(next))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return
	case <-timer.C:
		return
	case <-r.pace.moved:
	}
	if calm := time.Until(r.pace.calm); calm > 0 {
		soon := time.NewTimer(calm)
		defer soon.Stop()
		select {
		case <-ctx.Done():
		case <-soon.C:
		}
	}
}

// round does all once, and says whether the store and Redis were there.
func (r *Reconciler) round(ctx context.Context) bool {
	err := r.reap(ctx)
	if err == nil {
		err = r.expire(ctx)
	}
	if ctx.Err() != nil {
		return true
	}
	r.note(&r.store, err)
	storeUp := err == nil

	// Due moves evaluations on in time, trusting that they are enqueued; so Redis has to be there first.
	lost, err := r.lost(ctx)
	if err == nil && storeUp {
		err = r.fill(ctx, lost)
	}
	if ctx.Err() != nil {
		return true
	}
	r.noteQueue(err)
	return storeUp && err == nil
}

func (r *Reconciler) note(o *outage, err error) {
	if err != nil {
		r.errors.WithLabelValues(o.what).Inc()
	}
	o.report(err)
}

// noteQueue notes an error of Redis. What was not enqueued, here or by those who accepted it meanwhile, is when Redis
// is back.
func (r *Reconciler) noteQueue(err error) {
	r.rewind = r.rewind || err != nil
	r.note(&r.redis, err)
}

// reap takes evaluations from workers that vanished.
func (r *Reconciler) reap(ctx context.Context) error {
	for range most {
		service.Beat(ctx)
		call, cancel := context.WithTimeout(ctx, patience)
		reaped, err := r.deps.Store.Reap(call, batch)
		cancel()
		if err != nil {
			return err
		}
		for _, e := range reaped {
			why := ""
			if e.Failure != nil {
				why = e.Failure.Message
			}
			r.reaped.WithLabelValues(string(e.Status)).Inc()
			r.log.Warn("evaluation taken from a lost worker", "evaluation", e.ID, "attempt", e.Attempt, "lost_worker", e.Worker, "status", e.Status, "reason", why)
		}
		if len(reaped) < batch {
			return nil
		}
	}
	return nil
}

// expire fails what waits and has passed its deadline.
func (r *Reconciler) expire(ctx context.Context) error {
	for range most {
		call, cancel := context.WithTimeout(ctx, patience)
		expired, err := r.deps.Store.Expire(call, batch)
		cancel()
		if err != nil {
			return err
		}
		for _, e := range expired {
			r.log.Warn("evaluation failed: its deadline passed while it waited", "evaluation", e.ID, "expires_in", e.Spec.ExpiresIn)
		}
		if len(expired) < batch {
			return nil
		}
	}
	return nil
}

// lost says whether the queue has to be filled again.
func (r *Reconciler) lost(ctx context.Context) (bool, error) {
	call, cancel := context.WithTimeout(ctx, redisPatience)
	defer cancel()
	lost, err := r.deps.Redis.Lost(call)
	return lost || r.rewind, err
}

// fill feeds the queue; one that was lost gets back first what was in it. An error of the store ends the round and is
// reported as the store's; what is returned is Redis' error.
func (r *Reconciler) fill(ctx context.Context, lost bool) error {
	if lost {
		service.Beat(ctx)
		call, cancel := context.WithTimeout(ctx, patience)
		n, err := r.deps.Store.Rewind(call)
		cancel()
		if err != nil {
			r.note(&r.store, err)
			return nil
		}
		r.rewinds.Inc()
		if n > 0 {
			r.log.Info("queue filled again from the store", "evaluations", n)
		}
	}
	fed, err := r.feed(ctx, lost)
	if !fed || err != nil {
		return err
	}
	return r.mark(ctx, lost)
}

// feed enqueues what is due and whose turn it is. It says whether the store has answered; what is returned is Redis'
// error.
func (r *Reconciler) feed(ctx context.Context, lost bool) (fed bool, err error) {
	window, total := r.pace.window(r.cfg), 0
	for range most {
		service.Beat(ctx)
		if ctx.Err() != nil {
			return false, nil
		}
		// What Due has handed out is not handed out again for a while: a stop must not come in between.
		whole := context.WithoutCancel(ctx)
		call, cancel := context.WithTimeout(whole, patience)
		due, err := r.deps.Store.Due(call, eval.DueRequest{Limit: batch, Again: r.cfg.Again, Window: window})
		cancel()
		if err != nil {
			r.note(&r.store, err)
			return false, nil
		}
		if err := r.deps.Queue.EnqueueAll(whole, due); err != nil {
			return true, err
		}
		for _, d := range due {
			reason := string(d.Reason)
			if lost && d.Reason == eval.DispatchAgain {
				reason = "queue_lost"
			}
			r.dispatched.WithLabelValues(reason).Inc()
		}
		if total += len(due); len(due) < batch {
			break
		}
	}
	r.pace.fed(total, window)
	return true, nil
}

// mark records that the queue is whole.
func (r *Reconciler) mark(ctx context.Context, lost bool) error {
	call, cancel := context.WithTimeout(ctx, redisPatience)
	defer cancel()
	switch {
	case lost:
		if err := r.deps.Redis.Found(call); err != nil {
			return err
		}
		r.rewind, r.healed = false, time.Now()
	case time.Since(r.healed) > healEvery:
		if err := r.deps.Redis.Heal(call); err != nil {
			return err
		}
		r.healed = time.Now()
	}
	return nil
}

// outage logs the beginning and the end of an outage, once each.
type outage struct {
	what  string
	log   *slog.Logger
	since time.Time
}

func (o *outage) report(err error) {
	switch {
	case err != nil && o.since.IsZero():
		o.since = time.Now()
		o.log.Warn("reconciler: the "+o.what+" cannot be used; tried again until it can", "error", err)
	case err == nil && !o.since.IsZero():
		o.log.Info("reconciler: the "+o.what+" can be used again", "after", time.Since(o.since).Round(time.Millisecond))
		o.since = time.Time{}
	}
}
