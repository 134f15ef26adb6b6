package fallback_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/pkg/eval/evaltest"
	"github.com/crucible-eval/crucible/pkg/fallback"
	"github.com/crucible-eval/crucible/pkg/memory"
	"github.com/crucible-eval/crucible/pkg/testkit"
)

func TestMain(m *testing.M) {
	if folder := os.Getenv("FALLBACK_TEST_FOLDER"); folder != "" {
		acceptUntilKilled(folder, os.Getenv("FALLBACK_TEST_LIMIT") != "")
		return
	}
	goleak.VerifyTestMain(m)
}

// primary is a real store that goes away on command: before it has done what
// it was asked for, or after.
type primary struct {
	eval.Store
	before, after atomic.Bool
	// left, when it is not negative, is how many changes it makes before it goes.
	left atomic.Int64
}

func newPrimary(o memory.Options) *primary {
	p := &primary{Store: memory.NewStore(o)}
	p.left.Store(-1)
	return p
}

var errGone = &eval.Error{Kind: eval.KindUnavailable, Message: "the storage is away"}

func (p *primary) gone() bool { return p.before.Load() || p.left.Load() == 0 }

func (p *primary) change(done error) error {
	if p.left.Load() > 0 {
		p.left.Add(-1)
	}
	if p.after.Load() {
		return errGone
	}
	return done
}

func (p *primary) Create(ctx context.Context, s eval.Submission) ([]eval.Evaluation, bool, error) {
	if p.gone() {
		return nil, false, errGone
	}
	created, replayed, err := p.Store.Create(ctx, s)
	return created, replayed, p.change(err)
}

func (p *primary) Cancel(ctx context.Context, key eval.Key, reason string) (eval.Evaluation, error) {
	if p.gone() {
		return eval.Evaluation{}, errGone
	}
	e, err := p.Store.Cancel(ctx, key, reason)
	return e, p.change(err)
}

func (p *primary) Get(ctx context.Context, key eval.Key) (eval.Evaluation, error) {
	if p.gone() {
		return eval.Evaluation{}, errGone
	}
	return p.Store.Get(ctx, key)
}

func (p *primary) Events(ctx context.Context, key eval.Key, after int64, limit int) ([]eval.Event, error) {
	if p.gone() {
		return nil, errGone
	}
	return p.Store.Events(ctx, key, after, limit)
}

func (p *primary) List(ctx context.Context, q eval.Query) (eval.Page, error) {
	if p.gone() {
		return eval.Page{}, errGone
	}
	return p.Store.List(ctx, q)
}

func open(t testing.TB, p eval.Store, o fallback.Options) *fallback.Store {
	t.Helper()
	if o.Folder == "" {
		o.Folder = t.TempDir()
	}
	s, err := fallback.Open(p, o)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return s
}

func key(n int) eval.Key {
	return eval.Key{Project: eval.DefaultProject, ID: eval.ID(fmt.Sprintf("019a0000-0000-7000-8000-%012d", n))}
}

func evaluation(n int) eval.Evaluation {
	return eval.Evaluation{Key: key(n), Client: "somebody", Spec: eval.Spec{Tags: []string{"a"},
		Program: eval.Program{Language: "python", Code: eval.Bytes(fmt.Sprintf("print(%d)\n\x00", n))}}}
}

func create(t testing.TB, s eval.Store, ns ...int) []eval.Evaluation {
	t.Helper()
	var all []eval.Evaluation
	for _, n := range ns {
		created, replayed, err := s.Create(t.Context(), eval.Submission{Evaluations: []eval.Evaluation{evaluation(n)}})
		require.NoError(t, err)
		require.False(t, replayed)
		all = append(all, created...)
	}
	return all
}

// ids are those that the store has, in the order of their events: as they came.
func ids(t testing.TB, s eval.Store) (all []eval.ID) {
	t.Helper()
	events, err := s.Feed(t.Context(), eval.DefaultProject, 0, 1000)
	require.NoError(t, err)
	for _, e := range events {
		if e.Type == eval.EventQueued {
			all = append(all, e.ID)
		}
	}
	return all
}

func idsOf(ns ...int) (all []eval.ID) {
	for _, n := range ns {
		all = append(all, key(n).ID)
	}
	return all
}

func TestStore(t *testing.T) {
	evaltest.TestStore(t, func(t *testing.T, now func() time.Time) eval.Store {
		return open(t, memory.NewStore(memory.Options{Now: now}), fallback.Options{Now: now})
	})
}

func TestWhatIsAcceptedWhileTheStoreIsAwayReachesItInOrder(t *testing.T) {
	clock := evaltest.NewClock()
	p := newPrimary(memory.Options{Now: clock.Now})
	var moved []eval.Evaluation
	reg := prometheus.NewRegistry()
	s := open(t, p, fallback.Options{Now: clock.Now, Registry: reg, Moved: func(_ context.Context, all []eval.Evaluation) { moved = append(moved, all...) }})
	create(t, s, 1)
	require.Zero(t, s.Waiting())
	require.False(t, s.InUse())

	p.before.Store(true)
	accepted := create(t, s, 3, 2)
	batch := eval.Submission{IdempotencyKey: "k", Fingerprint: "f", Evaluations: []eval.Evaluation{evaluation(4), evaluation(5)}}
	for i := range batch.Evaluations {
		batch.Evaluations[i].BatchID = "b"
	}
	created, replayed, err := s.Create(t.Context(), batch)
	require.NoError(t, err)
	require.False(t, replayed)
	require.True(t, s.InUse())
	require.Equal(t, 4, s.Waiting())

	// It can be read, as queued.
	e, err := s.Get(t.Context(), key(3))
	require.NoError(t, err)
	require.Equal(t, accepted[0], e)
	require.Equal(t, eval.Queued, e.Status)
	require.Nil(t, e.DispatchedAt)
	events, err := s.Events(t.Context(), key(3), 0, 10)
	require.NoError(t, err)
	require.Len(t, events, 1)
	require.Equal(t, eval.EventQueued, events[0].Type)
	events, err = s.Events(t.Context(), key(3), 1, 10)
	require.NoError(t, err)
	require.Empty(t, events)
	attempts, err := s.Attempts(t.Context(), key(3))
	require.NoError(t, err)
	require.Empty(t, attempts)
	page, err := s.List(t.Context(), eval.Query{Project: eval.DefaultProject, Batch: "b"})
	require.NoError(t, err)
	require.Equal(t, idsOf(5, 4), idsIn(page))
	_, err = s.List(t.Context(), eval.Query{Project: eval.DefaultProject})
	require.Equal(t, eval.KindUnavailable, eval.KindOf(err), "a part of a list would be a lie")
	_, err = s.Get(t.Context(), key(1))
	require.Equal(t, eval.KindUnavailable, eval.KindOf(err))

	// The same request again is the same evaluations.
	again := batch
	again.Evaluations = []eval.Evaluation{evaluation(8), evaluation(9)}
	first, replayed, err := s.Create(t.Context(), again)
	require.NoError(t, err)
	require.True(t, replayed)
	require.Equal(t, created, first)
	again.Fingerprint = "another"
	_, _, err = s.Create(t.Context(), again)
	require.Equal(t, eval.KindKeyReused, eval.KindOf(err))
	_, _, err = s.Create(t.Context(), eval.Submission{Evaluations: []eval.Evaluation{evaluation(2)}})
	require.Equal(t, eval.KindConflict, eval.KindOf(err))
	_, _, err = s.Create(t.Context(), eval.Submission{})
	require.Equal(t, eval.KindInvalid, eval.KindOf(err))

	clock.Advance(time.Hour)
	require.Equal(t, 3, s.BringAll(t.Context()), "it is still away")
	p.before.Store(false)
	require.Zero(t, s.BringAll(t.Context()))
	require.False(t, s.InUse())
	require.Zero(t, s.Bytes())
	require.Equal(t, idsOf(1, 3, 2, 4, 5), ids(t, p.Store))
	require.Len(t, moved, 4)
	e, err = s.Get(t.Context(), key(3))
	require.NoError(t, err)
	require.Equal(t, accepted[0].CreatedAt, e.CreatedAt, "its age counts from the answer to the client")
	require.Equal(t, accepted[0].Spec, e.Spec)
	require.Equal(t, "somebody", e.Client)
	batch.Evaluations = []eval.Evaluation{evaluation(8), evaluation(9)}
	first, replayed, err = p.Store.Create(t.Context(), batch)
	require.NoError(t, err)
	require.True(t, replayed, "the key went along")
	require.Equal(t, key(4).ID, first[0].ID)
	require.InDelta(t, 4, testkit.Metric(t, reg, "crucible_fallback_evaluations_accepted_total"), 0)
	require.InDelta(t, 4, testkit.Metric(t, reg, "crucible_fallback_evaluations_moved_total"), 0)
}

func idsIn(page eval.Page) (all []eval.ID) {
	for _, e := range page.Evaluations {
		all = append(all, e.ID)
	}
	return all
}

func TestRunBringsOverByItself(t *testing.T) {
	p := newPrimary(memory.Options{})
	s := open(t, p, fallback.Options{Pause: time.Millisecond})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	for round := range 3 {
		p.before.Store(true)
		create(t, s, 2*round)
		create(t, s, 2*round+1)
		p.before.Store(false)
		testkit.Eventually(t, func() bool { return s.Waiting() == 0 }, "all is brought over")
	}
	cancel()
	require.NoError(t, <-ended)
	require.Equal(t, idsOf(0, 1, 2, 3, 4, 5), ids(t, p.Store))
}

// A store that answers too late, or not at all, may have written all the same.
func TestNothingIsDoubledWhenTheStoreHadWrittenIt(t *testing.T) {
	p := newPrimary(memory.Options{})
	s := open(t, p, fallback.Options{})
	p.after.Store(true)
	_, _, err := s.Create(t.Context(), eval.Submission{IdempotencyKey: "k", Evaluations: []eval.Evaluation{evaluation(1)}})
	require.NoError(t, err)
	create(t, s, 2)
	p.after.Store(false)
	_, err = p.Claim(t.Context(), eval.ClaimRequest{Key: key(1), Worker: "w", Lease: time.Hour})
	require.NoError(t, err)
	require.Zero(t, s.BringAll(t.Context()))
	e, err := s.Get(t.Context(), key(1))
	require.NoError(t, err)
	require.Equal(t, eval.Running, e.Status)
	require.Equal(t, idsOf(1, 2), ids(t, p.Store))
}

func TestACancelOfWhatWaitsIsDoneBeforeItStarts(t *testing.T) {
	p := newPrimary(memory.Options{})
	folder := t.TempDir()
	s := open(t, p, fallback.Options{Folder: folder})
	create(t, s, 9)
	p.before.Store(true)
	create(t, s, 1, 2)
	for range 2 {
		e, err := s.Cancel(t.Context(), key(1), "because")
		require.NoError(t, err)
		require.Equal(t, eval.Queued, e.Status, "the store decides how it ends")
		require.NotNil(t, e.CancelRequestedAt)
	}
	// Of what the store has, nobody knows what a cancel comes to.
	for range 2 {
		_, err := s.Cancel(t.Context(), key(9), "because")
		require.Equal(t, eval.KindUnavailable, eval.KindOf(err))
		require.ErrorContains(t, err, "written down")
	}
	require.NoError(t, s.Close())
	s = open(t, p, fallback.Options{Folder: folder})
	e, err := s.Get(t.Context(), key(1))
	require.NoError(t, err)
	require.NotNil(t, e.CancelRequestedAt)

	p.before.Store(false)
	p.left.Store(1) // it goes away after the creation
	require.NotZero(t, s.BringAll(t.Context()))
	p.left.Store(-1)
	_, err = p.Rewind(t.Context())
	require.NoError(t, err)
	due, err := p.Due(t.Context(), eval.DueRequest{Limit: 10, Again: time.Second})
	require.NoError(t, err)
	for _, d := range due {
		require.NotEqual(t, key(1), d.Key, "it must not start")
	}
	require.Zero(t, s.BringAll(t.Context()))
	for n, want := range map[int]eval.Status{1: eval.Cancelled, 2: eval.Queued, 9: eval.Cancelled} {
		e, err := s.Get(t.Context(), key(n))
		require.NoError(t, err)
		require.Equal(t, want, e.Status, n)
		require.Zero(t, e.Attempt)
	}
	require.Equal(t, idsOf(9, 1, 2), ids(t, p.Store))
}

// A key that was used before, which nobody could know, must not run the same
// request twice, and whoever was promised an id must find it.
func TestAKeyThatWasUsedBeforeTheStoreWentAway(t *testing.T) {
	p := newPrimary(memory.Options{})
	s := open(t, p, fallback.Options{})
	for i, k := range []string{"same", "other"} {
		_, _, err := p.Store.Create(t.Context(), eval.Submission{IdempotencyKey: k, Fingerprint: "f", Evaluations: []eval.Evaluation{evaluation(i)}})
		require.NoError(t, err)
	}
	p.before.Store(true)
	_, _, err := s.Create(t.Context(), eval.Submission{IdempotencyKey: "same", Fingerprint: "f", Evaluations: []eval.Evaluation{evaluation(10), evaluation(11)}})
	require.NoError(t, err)
	_, _, err = s.Create(t.Context(), eval.Submission{IdempotencyKey: "other", Fingerprint: "g", Evaluations: []eval.Evaluation{evaluation(12)}})
	require.NoError(t, err)
	p.before.Store(false)
	for left := int64(1); left < 6; left++ { // whenever it goes away meanwhile
		p.left.Store(left)
		s.BringAll(t.Context())
	}
	p.left.Store(-1)
	require.Zero(t, s.BringAll(t.Context()))
	for n, why := range map[int]string{10: string(key(0).ID), 11: string(key(0).ID), 12: "another request"} {
		e, err := s.Get(t.Context(), key(n))
		require.NoError(t, err)
		require.Equal(t, eval.Cancelled, e.Status)
		require.Contains(t, e.Reason, why)
		require.Zero(t, e.Attempt)
	}
}

// The same, where the store has forgotten what the key was used for.
func TestAKeyWhoseEvaluationIsGone(t *testing.T) {
	p := newPrimary(memory.Options{MaxEvaluations: 1})
	s := open(t, p, fallback.Options{})
	_, _, err := s.Create(t.Context(), eval.Submission{IdempotencyKey: "k", Evaluations: []eval.Evaluation{evaluation(0)}})
	require.NoError(t, err)
	_, err = s.Cancel(t.Context(), key(0), "")
	require.NoError(t, err)
	create(t, s, 1) // there is room for one
	_, err = s.Cancel(t.Context(), key(1), "")
	require.NoError(t, err)
	p.before.Store(true)
	_, _, err = s.Create(t.Context(), eval.Submission{IdempotencyKey: "k", Evaluations: []eval.Evaluation{evaluation(2)}})
	require.NoError(t, err)
	p.before.Store(false)
	require.Zero(t, s.BringAll(t.Context()))
	e, err := s.Get(t.Context(), key(2))
	require.NoError(t, err)
	require.Equal(t, eval.Cancelled, e.Status)
	require.Contains(t, e.Reason, "removed since")
}

func TestAListShowsWhatWaitsAmongTheRest(t *testing.T) {
	clock := evaltest.NewClock()
	p := newPrimary(memory.Options{Now: clock.Now})
	s := open(t, p, fallback.Options{Now: clock.Now, Pause: time.Nanosecond})
	for n := range 13 {
		p.before.Store(n%3 == 1)
		create(t, s, n)
		clock.Advance(time.Second)
	}
	require.Equal(t, 4, s.Waiting())
	for limit := 1; limit < 15; limit++ {
		var seen []eval.ID
		q := eval.Query{Project: eval.DefaultProject, Limit: limit}
		for {
			page, err := s.List(t.Context(), q)
			require.NoError(t, err)
			require.LessOrEqual(t, len(page.Evaluations), limit)
			seen = append(seen, idsIn(page)...)
			if q.Cursor = page.Next; q.Cursor == "" {
				break
			}
		}
		require.Equal(t, idsOf(12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0), seen, "limit %d", limit)
	}
	page, err := s.List(t.Context(), eval.Query{Project: eval.DefaultProject, Status: []eval.Status{eval.Running}})
	require.NoError(t, err)
	require.Empty(t, page.Evaluations)
}

func TestAFullJournalSaysSo(t *testing.T) {
	p := newPrimary(memory.Options{})
	p.before.Store(true)
	few := open(t, p, fallback.Options{MaxEvaluations: 2})
	create(t, few, 1, 2)
	small := open(t, p, fallback.Options{MaxBytes: 600})
	create(t, small, 1)
	for _, s := range []*fallback.Store{few, small} {
		size := s.Bytes()
		_, _, err := s.Create(t.Context(), eval.Submission{Evaluations: []eval.Evaluation{evaluation(3)}})
		require.Equal(t, eval.KindFull, eval.KindOf(err))
		require.ErrorContains(t, err, "holds as much as it may")
		require.Equal(t, size, s.Bytes())
	}
	p.before.Store(false)
	require.Zero(t, few.BringAll(t.Context()))
	create(t, few, 3)
}

func TestTheCallersEndIsNoOutage(t *testing.T) {
	p := newPrimary(memory.Options{})
	s := open(t, p, fallback.Options{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, _, err := s.Create(ctx, eval.Submission{Evaluations: []eval.Evaluation{evaluation(1)}})
	require.Equal(t, eval.KindUnavailable, eval.KindOf(err))
	require.Zero(t, s.Waiting())
	require.False(t, s.InUse())
}

func TestAJournalBelongsToOneProcess(t *testing.T) {
	folder := t.TempDir()
	s := open(t, newPrimary(memory.Options{}), fallback.Options{Folder: folder})
	_, err := fallback.Open(newPrimary(memory.Options{}), fallback.Options{Folder: folder})
	require.ErrorContains(t, err, "another process")
	require.NoError(t, s.Close())
	open(t, newPrimary(memory.Options{}), fallback.Options{Folder: folder})
}

// journalOf returns the lines of a journal with n evaluations in it.
func journalOf(t *testing.T, n int) []byte {
	t.Helper()
	folder := t.TempDir()
	p := newPrimary(memory.Options{})
	p.before.Store(true)
	s := open(t, p, fallback.Options{Folder: folder})
	for i := range n {
		create(t, s, i)
	}
	require.NoError(t, s.Close())
	raw, err := os.ReadFile(filepath.Join(folder, "journal.log"))
	require.NoError(t, err)
	return raw
}

// fastFolder is a folder in memory where there is one: the tests that open a
// journal for every byte of it would mostly wait for the disk.
func fastFolder(t *testing.T) string {
	t.Helper()
	folder, err := os.MkdirTemp("/dev/shm", "crucible-fallback-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(folder)) })
	return folder
}

// reopen writes a journal's file, opens it and brings over all of it.
func reopen(t *testing.T, raw []byte) (came []eval.ID, aside []byte) {
	t.Helper()
	folder := fastFolder(t)
	require.NoError(t, os.WriteFile(filepath.Join(folder, "journal.log"), raw, 0o600))
	p := newPrimary(memory.Options{})
	reg := prometheus.NewRegistry()
	s, err := fallback.Open(p, fallback.Options{Folder: folder, Registry: reg})
	require.NoError(t, err)
	require.Zero(t, s.BringAll(t.Context()))
	require.NoError(t, s.Close())
	left, err := filepath.Glob(filepath.Join(folder, "damaged-*"))
	require.NoError(t, err)
	for _, path := range left {
		aside, err = os.ReadFile(path)
		require.NoError(t, err)
	}
	require.InDelta(t, len(aside), testkit.Metric(t, reg, "crucible_fallback_damaged_bytes_total"), 0)
	return ids(t, p.Store), aside
}

// Wherever a crash cuts the file, what is whole counts, and the rest is kept.
func TestAJournalThatIsCutAtAnyByte(t *testing.T) {
	whole := journalOf(t, 3)
	lines := bytes.SplitAfter(whole, []byte("\n"))
	for cut := range len(whole) + 1 {
		var want []int
		rest := whole[:cut]
		for n, l := range lines[:3] {
			if len(rest) < len(l) {
				break
			}
			rest = rest[len(l):]
			want = append(want, n)
		}
		came, aside := reopen(t, whole[:cut])
		require.Equal(t, idsOf(want...), came, "cut at %d", cut)
		require.Equal(t, string(rest), string(aside), "cut at %d", cut)
	}
}

// Whatever byte a disk loses, no other line goes with its own.
func TestAJournalWithAnyByteBroken(t *testing.T) {
	whole := journalOf(t, 3)
	lines := bytes.SplitAfter(whole, []byte("\n"))[:3]
	at := 0
	for n, l := range lines {
		for i := range l {
			broken := bytes.Clone(whole)
			broken[at+i] ^= 1
			lost := map[int]bool{n: true}
			if i == len(l)-1 && n < 2 { // the line break: two lines are one
				lost[n+1] = true
			}
			var want []int
			for n := range 3 {
				if !lost[n] {
					want = append(want, n)
				}
			}
			came, aside := reopen(t, broken)
			require.Equal(t, idsOf(want...), came, "byte %d of line %d", i, n)
			require.NotEmpty(t, aside)
		}
		at += len(l)
	}
}

// Wherever the process dies while it brings entries over, the next one goes on.
func TestACrashWhileEntriesAreBroughtOver(t *testing.T) {
	raw := journalOf(t, 4)
	for _, answered := range []bool{true, false} {
		for done := int64(0); done <= 4; done++ {
			p := newPrimary(memory.Options{})
			folder := t.TempDir()
			require.NoError(t, os.WriteFile(filepath.Join(folder, "journal.log"), raw, 0o600))
			p.left.Store(done)
			p.after.Store(!answered)
			s, err := fallback.Open(p, fallback.Options{Folder: folder})
			require.NoError(t, err)
			s.BringAll(t.Context())
			require.NoError(t, s.Close())
			// The process has died before it could take anything from the file.
			require.NoError(t, os.WriteFile(filepath.Join(folder, "journal.log"), raw, 0o600))
			p.left.Store(-1)
			p.after.Store(false)
			s = open(t, p, fallback.Options{Folder: folder})
			require.Zero(t, s.BringAll(t.Context()))
			require.Equal(t, idsOf(0, 1, 2, 3), ids(t, p.Store), "after %d", done)
		}
	}
}

// A store that goes away in the middle leaves the rest in the file, and no more.
func TestWhatWasBroughtOverIsTakenFromTheFile(t *testing.T) {
	raw := journalOf(t, 4)
	folder := t.TempDir()
	path := filepath.Join(folder, "journal.log")
	require.NoError(t, os.WriteFile(path, raw, 0o600))
	p := newPrimary(memory.Options{})
	s := open(t, p, fallback.Options{Folder: folder})
	p.left.Store(3)
	require.Equal(t, 1, s.BringAll(t.Context()))
	now, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, string(bytes.SplitAfter(raw, []byte("\n"))[3]), string(now))
	create(t, s, 4)
	p.left.Store(1)
	require.Equal(t, 1, s.BringAll(t.Context()))
	p.left.Store(-1)
	require.Zero(t, s.BringAll(t.Context()))
	require.Equal(t, idsOf(0, 1, 2, 3, 4), ids(t, p.Store))
	now, err = os.ReadFile(path)
	require.NoError(t, err)
	require.Empty(t, now)
}

func TestWhatTheStoreRefusesStaysAndHoldsNothingUp(t *testing.T) {
	p := newPrimary(memory.Options{MaxEvaluations: 1})
	p.before.Store(true)
	s := open(t, p, fallback.Options{})
	create(t, s, 1, 2)
	p.before.Store(false)
	require.Equal(t, 1, s.BringAll(t.Context()))
	e, err := s.Get(t.Context(), key(2))
	require.NoError(t, err)
	require.Equal(t, eval.Queued, e.Status)
	_, err = p.Cancel(t.Context(), key(1), "")
	require.NoError(t, err)
	require.Zero(t, s.BringAll(t.Context()))
}

// acceptUntilKilled is another process: it accepts evaluations and says each
// one that it has promised. limit leaves its journal 4 KiB of disk.
func acceptUntilKilled(folder string, limit bool) {
	if limit {
		signal.Ignore(syscall.SIGXFSZ)
		most := &syscall.Rlimit{Cur: 4096, Max: 4096}
		if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, most); err != nil {
			fmt.Println("no limit:", err)
			return
		}
	}
	p := newPrimary(memory.Options{})
	p.before.Store(true)
	s, err := fallback.Open(p, fallback.Options{Folder: folder})
	if err != nil {
		fmt.Println("cannot open:", err)
		return
	}
	for n := 0; ; n++ {
		_, _, err := s.Create(context.Background(), eval.Submission{Evaluations: []eval.Evaluation{evaluation(n)}})
		if err != nil {
			fmt.Println("refused", eval.KindOf(err), err)
			return
		}
		fmt.Println(key(n).ID)
	}
}

func child(t *testing.T, folder, limit string) (*exec.Cmd, *bufio.Scanner) {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), "FALLBACK_TEST_FOLDER="+folder, "FALLBACK_TEST_LIMIT="+limit)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	return cmd, bufio.NewScanner(out)
}

func TestKilledWhileItAccepts(t *testing.T) {
	for round := range 3 {
		folder := t.TempDir()
		cmd, lines := child(t, folder, "")
		var promised []eval.ID
		for len(promised) < 10*(round+1) && lines.Scan() {
			promised = append(promised, eval.ID(lines.Text()))
		}
		require.NoError(t, cmd.Process.Kill())
		for lines.Scan() { // what it had promised before it died
			if id := lines.Text(); len(id) == len(promised[0]) {
				promised = append(promised, eval.ID(id))
			}
		}
		_ = cmd.Wait()
		p := newPrimary(memory.Options{})
		s := open(t, p, fallback.Options{Folder: folder})
		require.Zero(t, s.BringAll(t.Context()))
		came := ids(t, p.Store)
		require.GreaterOrEqual(t, len(came), len(promised))
		require.Equal(t, promised, came[:len(promised)])
		require.LessOrEqual(t, len(came), len(promised)+1, "at most the one that it was about to promise")
	}
}

func TestADiskThatIsFullIsAnErrorAndLosesNothing(t *testing.T) {
	folder := t.TempDir()
	cmd, lines := child(t, folder, "yes")
	var promised []eval.ID
	var refused string
	for lines.Scan() {
		if strings.HasPrefix(lines.Text(), "refused ") {
			refused = lines.Text()
			break
		}
		promised = append(promised, eval.ID(lines.Text()))
	}
	require.NoError(t, cmd.Wait())
	require.Contains(t, refused, string(eval.KindUnavailable))
	require.Contains(t, refused, "nothing was accepted")
	require.NotEmpty(t, promised)
	came, aside := func() ([]eval.ID, []byte) {
		raw, err := os.ReadFile(filepath.Join(folder, "journal.log"))
		require.NoError(t, err)
		return reopen(t, raw)
	}()
	require.Equal(t, promised, came)
	require.Empty(t, aside, "the part of a line was taken off")
}

func TestUnwritableFolderIsAnErrorAtOnce(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	_, err := fallback.Open(newPrimary(memory.Options{}), fallback.Options{Folder: filepath.Join(file, "x")})
	require.ErrorContains(t, err, "cannot be made")
}
