package evaltest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/pkg/eval"
)

// OpenSweeper is [OpenStore] for a store with its side for sweepers.
type OpenSweeper func(t *testing.T, now func() time.Time) (eval.Store, eval.Sweeper)

type sweptFixture struct {
	*fixture
	eval.Sweeper
}

// ended makes an evaluation that has completed, with what it wrote in a blob.
func (f *sweptFixture) ended(blobs ...string) eval.Evaluation {
	f.Helper()
	e := f.create(func(e *eval.Evaluation) { e.Spec.Tags = []string{"a", "b", "a"} })
	_, l := f.claim(e.Key)
	o := accepted("hello")
	for i, digest := range blobs {
		require.NoError(f, f.HoldBlob(f.ctx, digest, 100))
		s := []*eval.Stream{&o.Result.Stdout, &o.Result.Stderr}[i]
		*s = eval.Stream{Data: []byte("hello"), Bytes: 100, Blob: digest}
	}
	return f.finish(l, o)
}

func (f *sweptFixture) sweep(r eval.Retention, limit int) int {
	f.Helper()
	n, err := f.Sweep(f.ctx, r, limit)
	require.NoError(f, err)
	return n
}

// sweepBlobs returns the blobs that were removed.
func (f *sweptFixture) sweepBlobs() []string {
	f.Helper()
	var removed []string
	swept, err := f.SweepBlobs(f.ctx, 100, func(_ context.Context, digest string) error {
		removed = append(removed, digest)
		return nil
	})
	require.NoError(f, err)
	require.Equal(f, len(removed), swept.Removed)
	require.EqualValues(f, 100*len(removed), swept.Bytes)
	return removed
}

func digestNumber(n int) string { return strings.Repeat(fmt.Sprintf("%04x", n), 16) }

// TestSweeper checks that a store keeps the contract of [eval.Sweeper].
func TestSweeper(t *testing.T, open OpenSweeper) {
	const day = 24 * time.Hour
	kept := eval.Retention{Ended: 10 * day, Failed: 20 * day}
	tests := map[string]func(*sweptFixture){
		"what has ended goes by its age, and all of its history with it": func(f *sweptFixture) {
			waits, runs := f.create().Key, f.create().Key
			f.claim(runs)
			done := f.ended().Key
			cancelled := f.create().Key
			_, err := f.Cancel(f.ctx, cancelled, "")
			require.NoError(f, err)
			failed := f.failed(eval.KindInvalid).Key
			all := []eval.Key{waits, runs, done, cancelled, failed}

			f.clock.Advance(10*day - time.Second)
			require.Zero(f, f.sweep(kept, 100))
			f.clock.Advance(time.Second)
			require.Zero(f, f.sweep(eval.Retention{}, 100), "for ever")
			require.Equal(f, 2, f.sweep(kept, 100))
			require.Zero(f, f.sweep(kept, 100))
			there := func(want ...eval.Key) {
				f.Helper()
				for _, key := range all {
					_, err := f.Get(f.ctx, key)
					if !slices.Contains(want, key) {
						kind(f, eval.KindNotFound, err)
						require.ErrorContains(f, err, "there is no evaluation")
						require.Empty(f, f.events(key))
						require.Empty(f, f.attempts(key))
						continue
					}
					require.NoError(f, err)
					require.NotEmpty(f, f.events(key))
				}
				page, err := f.List(f.ctx, eval.Query{Project: eval.DefaultProject})
				require.NoError(f, err)
				require.Len(f, page.Evaluations, len(want))
			}
			there(waits, runs, failed)
			page, err := f.List(f.ctx, eval.Query{Project: eval.DefaultProject, Tag: "a"})
			require.NoError(f, err)
			require.Empty(f, page.Evaluations)

			f.clock.Advance(10 * day)
			require.Equal(f, 1, f.sweep(kept, 100))
			there(waits, runs)
			dead, err := f.ListDeadLetters(f.ctx, eval.DeadLetterQuery{Project: eval.DefaultProject})
			require.NoError(f, err)
			require.Empty(f, dead.DeadLetters)
			stats, err := f.Stats(f.ctx, eval.DefaultProject)
			require.NoError(f, err)
			require.Zero(f, stats.DeadLetters)
			_, err = f.Retry(f.ctx, failed, f.key().ID)
			kind(f, eval.KindNotFound, err)
		},
		"a step is bounded, and takes those that ended first": func(f *sweptFixture) {
			var keys []eval.Key
			for range 5 {
				keys = append(keys, f.ended().Key)
				f.clock.Advance(time.Second)
			}
			f.clock.Advance(11 * day)
			for n, want := range []int{2, 2, 1, 0} {
				require.Equal(f, want, f.sweep(kept, 2))
				for i, key := range keys {
					_, err := f.Get(f.ctx, key)
					require.Equal(f, i < 2*(n+1), err != nil, "step %d, evaluation %d", n, i)
				}
			}
		},
		"the feed goes on behind what is gone, and gives no cursor twice": func(f *sweptFixture) {
			f.ended()
			f.ended()
			f.clock.Advance(11 * day)
			before, err := f.Feed(f.ctx, eval.DefaultProject, 0, 100)
			require.NoError(f, err)
			last := before[len(before)-1].Cursor
			require.Equal(f, 2, f.sweep(kept, 100))
			after, err := f.Feed(f.ctx, eval.DefaultProject, 0, 100)
			require.NoError(f, err)
			require.Empty(f, after)
			e := f.create()
			after, err = f.Feed(f.ctx, eval.DefaultProject, last, 100)
			require.NoError(f, err)
			require.Len(f, after, 1, "a reader that had seen all of it")
			require.Equal(f, e.ID, after[0].ID)
			require.Greater(f, after[0].Cursor, last)
			after, err = f.Feed(f.ctx, eval.DefaultProject, before[1].Cursor, 100)
			require.NoError(f, err)
			require.Len(f, after, 1, "a reader that had seen some of it")
		},
		"what has a callback to be delivered stays": func(f *sweptFixture) {
			e := f.create(func(e *eval.Evaluation) { e.Spec.CallbackURL = "http://127.0.0.1:9/hook" })
			_, l := f.claim(e.Key)
			f.finish(l, accepted(""))
			f.clock.Advance(11 * day)
			require.Zero(f, f.sweep(kept, 100))
		},
		"a blob goes when nothing refers to it": func(f *sweptFixture) {
			one, two, orphan := digestNumber(1), digestNumber(2), digestNumber(3)
			f.ended(one, two)
			f.clock.Advance(5 * day)
			f.ended(two, one)
			f.ended(two)
			require.NoError(f, f.HoldBlob(f.ctx, orphan, 100))
			require.Empty(f, f.sweepBlobs(), "it is held")
			f.clock.Advance(eval.BlobGrace)
			require.Equal(f, []string{orphan}, f.sweepBlobs())
			require.Empty(f, f.sweepBlobs())
			f.clock.Advance(6 * day)
			require.Equal(f, 1, f.sweep(kept, 100))
			require.Empty(f, f.sweepBlobs(), "others refer to both")
			f.clock.Advance(5 * day)
			require.Equal(f, 2, f.sweep(kept, 100))
			require.ElementsMatch(f, []string{one, two}, f.sweepBlobs())
			require.Empty(f, f.sweepBlobs())
		},
		"a blob that is put again stays until its evaluation has ended": func(f *sweptFixture) {
			one := digestNumber(1)
			f.ended(one)
			f.clock.Advance(11 * day)
			e := f.create()
			_, l := f.claim(e.Key)
			require.NoError(f, f.HoldBlob(f.ctx, one, 100)) // another run wrote the same
			require.Equal(f, 1, f.sweep(kept, 100))
			require.Empty(f, f.sweepBlobs())
			o := accepted("")
			o.Result.Stdout = eval.Stream{Bytes: 100, Blob: one}
			f.finish(l, o)
			f.clock.Advance(2 * eval.BlobGrace)
			require.Empty(f, f.sweepBlobs())
			f.clock.Advance(11 * day)
			require.Equal(f, 1, f.sweep(kept, 100))
			require.Equal(f, []string{one}, f.sweepBlobs())
		},
		"a blob that cannot be removed is tried again": func(f *sweptFixture) {
			for n := range 3 {
				require.NoError(f, f.HoldBlob(f.ctx, digestNumber(n), 100))
			}
			f.clock.Advance(2 * eval.BlobGrace)
			broken := errors.New("broken")
			swept, err := f.SweepBlobs(f.ctx, 100, func(_ context.Context, digest string) error {
				if digest == digestNumber(1) {
					return broken
				}
				return nil
			})
			require.ErrorIs(f, err, broken)
			require.Equal(f, 2, swept.Removed, "it holds up no other")
			require.Equal(f, []string{digestNumber(1)}, f.sweepBlobs())
		},
		"who puts a blob waits while it is being removed": func(f *sweptFixture) {
			one := digestNumber(1)
			require.NoError(f, f.HoldBlob(f.ctx, one, 100))
			f.clock.Advance(2 * eval.BlobGrace)
			held := make(chan error, 1)
			_, err := f.SweepBlobs(f.ctx, 100, func(context.Context, string) error {
				go func() { held <- f.HoldBlob(f.ctx, one, 100) }()
				select {
				case <-held:
					f.Error("the blob was held while it was being removed: its content would be gone")
				case <-time.After(50 * time.Millisecond):
				}
				return nil
			})
			require.NoError(f, err)
			require.NoError(f, <-held)
			require.Empty(f, f.sweepBlobs(), "it is held again")
		},
		"idempotency keys are forgotten after their time": func(f *sweptFixture) {
			sub := eval.Submission{IdempotencyKey: "old", Evaluations: []eval.Evaluation{{Key: f.key(), Spec: program("1")}}}
			_, _, err := f.Create(f.ctx, sub)
			require.NoError(f, err)
			n, err := f.SweepKeys(f.ctx, 100)
			require.NoError(f, err)
			require.Zero(f, n)
			f.clock.Advance(day)
			n, err = f.SweepKeys(f.ctx, 100)
			require.NoError(f, err)
			require.Equal(f, 1, n)
		},
		"a key whose evaluation was removed says so": func(f *sweptFixture) {
			sub := eval.Submission{IdempotencyKey: "k", Evaluations: []eval.Evaluation{{Key: f.key(), Spec: program("1")}}}
			created, _, err := f.Create(f.ctx, sub)
			require.NoError(f, err)
			_, err = f.Cancel(f.ctx, created[0].Key, "")
			require.NoError(f, err)
			f.clock.Advance(time.Hour)
			require.Equal(f, 1, f.sweep(eval.Retention{Ended: time.Minute}, 100))
			sub.Evaluations[0].Key = f.key()
			_, _, err = f.Create(f.ctx, sub)
			kind(f, eval.KindConflict, err)
			require.ErrorContains(f, err, "use a new key")
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			var sweeper eval.Sweeper
			f := newFixture(t, func(t *testing.T, now func() time.Time) (s eval.Store) {
				s, sweeper = open(t, now)
				return s
			})
			test(&sweptFixture{f, sweeper})
		})
	}
}
