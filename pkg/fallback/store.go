package fallback

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/pkg/internal/outage"
	"github.com/crucible-eval/crucible/pkg/memory"
)

// Defaults of Options.
const (
	DefaultMaxBytes       = 64 << 20
	DefaultMaxEvaluations = 10_000
	DefaultPatience       = 5 * time.Second
	DefaultPause          = time.Second
)

// Options configures a store. Only Folder is required.
type Options struct {
	// Folder has the journal, and belongs to one process at a time.
	Folder string
	// MaxBytes and MaxEvaluations bound what waits in it, on disk and in
	// memory. Beyond them Create answers KindFull.
	MaxBytes       int64
	MaxEvaluations int
	// Patience is how long the store may take to accept before the journal does.
	Patience time.Duration
	// Pause is the time between tries to reach a store that is away.
	Pause time.Duration
	// Moved, when not nil, is told what has reached the store, so that it can
	// be put into the queue at once. The reconciler does it in any case.
	Moved func(context.Context, []eval.Evaluation)

	Now      func() time.Time // default: time.Now
	Logger   *slog.Logger
	Registry prometheus.Registerer
}

// Store is an [eval.Store] with a journal. Run brings over what waits in it.
type Store struct {
	eval.Store // the one that may be away
	options    Options
	log        *slog.Logger
	gate       *outage.Gate
	metrics    *metrics
	wake       chan struct{} // something waits

	mu      sync.RWMutex
	file    *file
	entries []*entry // as they were written
	waiting map[eval.Key]*eval.Evaluation
	keys    map[idempotencyKey]*entry
	wishes  map[eval.Key]bool // cancels of what is not here
	closed  bool
}

var _ eval.Store = (*Store)(nil)

// entry is a line of the journal.
type entry struct {
	At     time.Time        `json:"at"`
	Create *eval.Submission `json:"create,omitempty"`
	Cancel *cancel          `json:"cancel,omitempty"`

	span span
	done bool // the store has it
}

type cancel struct {
	eval.Key
	Reason string `json:"reason"`
}

type idempotencyKey struct{ project, client, key string }

func keyOf(sub eval.Submission) idempotencyKey {
	return idempotencyKey{sub.Evaluations[0].Project, sub.Client(), sub.IdempotencyKey}
}

// Open opens the journal and returns the store with it. What an earlier
// process has left waits to be brought over by Run.
func Open(store eval.Store, o Options) (*Store, error) {
	o.MaxBytes = cmp.Or(o.MaxBytes, DefaultMaxBytes)
	o.MaxEvaluations = cmp.Or(o.MaxEvaluations, DefaultMaxEvaluations)
	o.Patience, o.Pause = cmp.Or(o.Patience, DefaultPatience), cmp.Or(o.Pause, DefaultPause)
	o.Logger = cmp.Or(o.Logger, slog.New(slog.DiscardHandler))
	if o.Now == nil {
		o.Now = time.Now
	}
	s := &Store{
		Store: store, options: o, log: o.Logger, wake: make(chan struct{}, 1),
		gate:    outage.NewGate("storage: new evaluations are accepted into the fallback journal until it answers", o.Pause, o.Logger),
		waiting: map[eval.Key]*eval.Evaluation{}, keys: map[idempotencyKey]*entry{}, wishes: map[eval.Key]bool{},
	}
	var found damage
	var err error
	if s.file, found, err = openFile(o.Folder, s.restore); err != nil {
		return nil, err
	}
	if s.metrics, err = newMetrics(o.Registry, s); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	if found.lines > 0 {
		s.metrics.damaged.Add(float64(found.bytes))
		s.log.Error("fallback journal: a part cannot be read and was put aside; a crash in mid-write leaves a last line that nobody was promised, "+
			"anything else means a broken disk and evaluations that were accepted", "lines", found.lines, "bytes", found.bytes, "kept_in", found.path)
	}
	if n := len(s.entries); n > 0 {
		s.log.Info("fallback journal: an earlier process has left something for the storage", "entries", n, "evaluations", len(s.waiting))
		s.poke()
	}
	return s, nil
}

// restore takes over a line of the journal.
func (s *Store) restore(raw []byte, at span) error {
	en := &entry{span: at}
	if err := json.Unmarshal(raw, en); err != nil {
		return err
	}
	return s.takeIn(en)
}

// Close closes the journal. What waits in it is brought over by the next
// process that opens it. Create answers KindStopping afterwards where it
// would need the journal.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	return s.file.close()
}

// away reports whether err says that the store cannot be reached now. The
// caller's own end says nothing about it.
func away(ctx context.Context, err error) bool {
	return ctx.Err() == nil && (eval.IsKind(err, eval.KindUnavailable) || eval.IsKind(err, eval.KindStopping))
}

// attempt calls the store, unless it is known to be away. ok is false when it
// is, and then err is why, if that is known.
func attempt[T any](ctx context.Context, s *Store, call func(context.Context) (T, error)) (answer T, ok bool, err error) {
	if !s.gate.Allow() {
		return answer, false, nil
	}
	limited, stop := context.WithTimeout(ctx, s.options.Patience)
	defer stop()
	answer, err = call(limited)
	if away(ctx, err) {
		s.gate.Report(err)
		return answer, false, err
	}
	if ctx.Err() == nil {
		s.gate.Report(nil)
	}
	return answer, true, err
}

type creation struct {
	evaluations []eval.Evaluation
	replayed    bool
}

// Create implements [eval.Intake].
func (s *Store) Create(ctx context.Context, sub eval.Submission) ([]eval.Evaluation, bool, error) {
	if first, found, err := s.recall(sub); found {
		return first, err == nil, err
	}
	c, ok, err := attempt(ctx, s, func(ctx context.Context) (c creation, err error) {
		c.evaluations, c.replayed, err = s.Store.Create(ctx, sub)
		return c, err
	})
	switch {
	case ok:
		return c.evaluations, c.replayed, err
	case sub.Recall:
		return nil, false, &eval.Error{Kind: eval.KindUnavailable, Err: err, Message: "the storage cannot be reached to look for the idempotency key; send the request again"}
	}
	return s.accept(sub)
}

// accept writes the submission to the journal.
func (s *Store) accept(sub eval.Submission) ([]eval.Evaluation, bool, error) {
	sub.AcceptedAt = eval.StoreTime(s.options.Now())
	s.mu.Lock()
	defer s.mu.Unlock()
	if first, found, err := s.recallLocked(sub); found {
		return first, err == nil, err
	}
	for _, e := range sub.Evaluations {
		if s.waiting[e.Key] != nil {
			return nil, false, e.Exists()
		}
	}
	if len(s.waiting)+len(sub.Evaluations) > s.options.MaxEvaluations {
		return nil, false, s.full("evaluations", int64(s.options.MaxEvaluations))
	}
	en := &entry{At: sub.AcceptedAt, Create: &sub}
	if _, err := s.evaluations(en); err != nil {
		return nil, false, err
	}
	if err := s.write(en); err != nil {
		return nil, false, err
	}
	s.metrics.accepted.Add(float64(len(sub.Evaluations)))
	created := make([]eval.Evaluation, len(sub.Evaluations))
	for i, e := range sub.Evaluations {
		created[i] = memory.Clone(*s.waiting[e.Key])
	}
	return created, false, nil
}

// evaluations is what the journal shows of a submission: queued, and not in
// the queue yet.
func (s *Store) evaluations(en *entry) ([]eval.Evaluation, error) {
	changes, err := en.Create.Accept(en.At)
	if err != nil {
		return nil, err
	}
	all := make([]eval.Evaluation, len(changes))
	for i, c := range changes {
		all[i] = c.Evaluation
		all[i].DispatchedAt, all[i].NextDispatchAt = nil, nil
	}
	return all, nil
}

// write appends an entry and takes it in. The lock is held.
func (s *Store) write(en *entry) error {
	if s.closed {
		return stopping()
	}
	raw, err := json.Marshal(en)
	if err != nil {
		return eval.Errorf(eval.KindInvalid, "the request cannot be written as JSON: %w", err)
	}
	if s.file.size+int64(len(raw)) > s.options.MaxBytes {
		return s.full("bytes", s.options.MaxBytes)
	}
	if en.span, err = s.file.append(raw); err != nil {
		s.metrics.failures.Inc()
		s.log.Error("fallback journal: a line cannot be written; the request was refused", "folder", s.options.Folder, "error", err)
		return refusal(err)
	}
	if err := s.takeIn(en); err != nil {
		return err
	}
	s.poke()
	return nil
}

// takeIn makes an entry visible.
func (s *Store) takeIn(en *entry) error {
	switch {
	case en.Create != nil:
		all, err := s.evaluations(en)
		if err != nil {
			return err
		}
		for _, e := range all {
			s.waiting[e.Key] = &e
		}
		if en.Create.IdempotencyKey != "" {
			s.keys[keyOf(*en.Create)] = en
		}
	case en.Cancel != nil:
		if e := s.waiting[en.Cancel.Key]; e == nil {
			s.wishes[en.Cancel.Key] = true
		} else if e.CancelRequestedAt == nil {
			e.CancelRequestedAt, e.Reason = &en.At, en.Cancel.Reason
		}
	default:
		return errors.New("an entry of a kind that this version does not know")
	}
	s.entries = append(s.entries, en)
	return nil
}

// recall finds the submission whose idempotency key waits here.
func (s *Store) recall(sub eval.Submission) (first []eval.Evaluation, found bool, err error) {
	if sub.IdempotencyKey == "" {
		return nil, false, nil
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.recallLocked(sub)
}

func (s *Store) recallLocked(sub eval.Submission) (first []eval.Evaluation, found bool, err error) {
	if sub.IdempotencyKey == "" || len(sub.Evaluations) == 0 {
		return nil, false, nil
	}
	en := s.keys[keyOf(sub)]
	if en == nil || !en.At.After(s.options.Now().Add(-eval.IdempotencyWindow)) {
		return nil, false, nil
	}
	if en.Create.Fingerprint != sub.Fingerprint {
		return nil, true, sub.KeyReused()
	}
	for _, e := range en.Create.Evaluations {
		first = append(first, memory.Clone(*s.waiting[e.Key]))
	}
	return first, true, nil
}

// Cancel implements [eval.Intake]. Of what waits here the cancel is written
// down, and done when it reaches the store, before it could start. Of anything
// else it is written down too while the store is away, but nobody can say yet
// what becomes of it: KindUnavailable tells.
func (s *Store) Cancel(ctx context.Context, key eval.Key, reason string) (eval.Evaluation, error) {
	if e, found, err := s.cancelHere(key, reason); found {
		return e, err
	}
	e, ok, err := attempt(ctx, s, func(ctx context.Context) (eval.Evaluation, error) { return s.Store.Cancel(ctx, key, reason) })
	if ok {
		return e, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.wishes[key] {
		if err := s.write(&entry{At: eval.StoreTime(s.options.Now()), Cancel: &cancel{key, reason}}); err != nil {
			return eval.Evaluation{}, err
		}
	}
	return eval.Evaluation{}, &eval.Error{Kind: eval.KindUnavailable, RetryAfter: s.options.Pause, Err: err,
		Message: "the storage cannot be reached; the cancel is written down here and will be carried out as soon as it can be"}
}

func (s *Store) cancelHere(key eval.Key, reason string) (_ eval.Evaluation, found bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.waiting[key]
	if e == nil {
		return eval.Evaluation{}, false, nil
	}
	if e.CancelRequestedAt == nil {
		err = s.write(&entry{At: eval.StoreTime(s.options.Now()), Cancel: &cancel{key, reason}})
	}
	if err != nil {
		return eval.Evaluation{}, true, err
	}
	return memory.Clone(*e), true, nil
}

func stopping() error {
	return &eval.Error{Kind: eval.KindStopping, Message: "the storage cannot be reached and this server is shutting down; send the request again"}
}

func (s *Store) full(what string, most int64) error {
	return &eval.Error{Kind: eval.KindFull, RetryAfter: 10 * time.Second, Message: fmt.Sprintf(
		"the storage cannot be reached, and the journal that stands in for it holds as much as it may, %d %s; send the request again when the storage is back, or raise the limit", most, what)}
}

// refusal is the error of a line that was not written.
func refusal(err error) error {
	msg := "the storage cannot be reached, and neither can the journal that stands in for it be written; nothing was accepted: check its folder"
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		msg = "the storage cannot be reached, and the disk of the journal that stands in for it is full; nothing was accepted: make room there"
	}
	return &eval.Error{Kind: eval.KindUnavailable, RetryAfter: 30 * time.Second, Err: err, Message: msg}
}

func (s *Store) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Ready returns nil when new evaluations can be accepted, by the store or by
// the journal. KindUnavailable or KindFull.
func (s *Store) Ready(context.Context) error {
	if !s.InUse() {
		return nil
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	switch {
	case s.closed:
		return stopping()
	case s.file.torn != nil:
		return refusal(s.file.torn)
	case len(s.waiting) >= s.options.MaxEvaluations:
		return s.full("evaluations", int64(s.options.MaxEvaluations))
	case s.file.size >= s.options.MaxBytes:
		return s.full("bytes", s.options.MaxBytes)
	}
	return nil
}

// Waiting is how many evaluations wait in the journal.
func (s *Store) Waiting() int {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return len(s.waiting)
}

// InUse says whether new evaluations go to the journal now, because the store
// did not answer the last time.
func (s *Store) InUse() bool { return s.gate.Down() }

// Bytes is how much of the journal is in use.
func (s *Store) Bytes() int64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.file.size
}

var byAge = func(a, b eval.Evaluation) int {
	return cmp.Or(b.CreatedAt.Compare(a.CreatedAt), cmp.Compare(b.ID, a.ID))
}

func sorted(all []eval.Evaluation) []eval.Evaluation {
	slices.SortFunc(all, byAge)
	return all
}
