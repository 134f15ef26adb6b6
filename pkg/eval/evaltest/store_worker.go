package evaltest

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/pkg/eval"
)

func testWorker(t *testing.T, open OpenStore) {
	each(t, open, map[string]func(*fixture){
		"claim gives the whole evaluation and a lease": func(f *fixture) {
			e := f.create()
			f.clock.Advance(time.Second)
			got, err := f.Claim(f.ctx, eval.ClaimRequest{Key: e.Key, Worker: worker, Lease: lease})
			require.NoError(f, err)
			require.Equal(f, eval.Running, got.Status)
			require.Equal(f, 1, got.Attempt)
			require.Equal(f, worker, got.Worker)
			require.Equal(f, "print(1)", got.Spec.Code.String())
			require.True(f, f.clock.Now().Add(lease).Equal(*got.LeaseUntil))
			require.True(f, f.clock.Now().Equal(*got.StartedAt))
			require.Nil(f, got.NextDispatchAt)
			same(f, got, f.get(e.Key))
			attempts := f.attempts(e.Key)
			require.Len(f, attempts, 1)
			require.Equal(f, eval.AttemptRunning, attempts[0].Outcome)
			require.Equal(f, worker, attempts[0].Worker)
		},
		"claim refuses what is not queued, and says what it is": func(f *fixture) {
			e, l := f.running()
			_, err := f.Claim(f.ctx, eval.ClaimRequest{Key: e.Key, Worker: "worker-2", Lease: lease})
			require.Equal(f, eval.Running, kind(f, eval.KindConflict, err).Status)
			require.Equal(f, worker, f.get(e.Key).Worker)
			f.finish(l, accepted(""))
			_, err = f.Claim(f.ctx, eval.ClaimRequest{Key: e.Key, Worker: "worker-2", Lease: lease})
			require.Equal(f, eval.Completed, kind(f, eval.KindConflict, err).Status)
		},
		"claim of what is not there": func(f *fixture) {
			e := f.create()
			for _, key := range strangers(e.Key) {
				_, err := f.Claim(f.ctx, eval.ClaimRequest{Key: key, Worker: worker, Lease: lease})
				kind(f, eval.KindNotFound, err)
			}
		},
		"the attempt grows with each claim": func(f *fixture) {
			e := f.create()
			for n := 1; n <= 4; n++ {
				got, l := f.claim(e.Key)
				require.Equal(f, n, got.Attempt)
				f.finish(l, platformFailure(eval.KindStopping))
			}
			require.Len(f, f.attempts(e.Key), 4)
		},
		"beat extends the lease": func(f *fixture) {
			e, l := f.running()
			f.clock.Advance(5 * time.Second)
			beat, err := f.Beat(f.ctx, l, lease)
			require.NoError(f, err)
			require.False(f, beat.CancelRequested)
			require.True(f, f.clock.Now().Add(lease).Equal(beat.LeaseUntil))
			require.True(f, beat.LeaseUntil.Equal(*f.get(e.Key).LeaseUntil))
			require.Len(f, f.events(e.Key), 2, "a beat is no event")
			require.Equal(f, "print(1)", f.get(e.Key).Spec.Code.String(), "a beat must not touch the program")
		},
		"beat and finish are fenced by the attempt": func(f *fixture) {
			e, old := f.running()
			f.clock.Advance(lease)
			_, err := f.Reap(f.ctx, 10)
			require.NoError(f, err)
			_, err = f.Beat(f.ctx, old, lease)
			kind(f, eval.KindLeaseLost, err)
			_, err = f.Finish(f.ctx, old, accepted("late"))
			kind(f, eval.KindLeaseLost, err)
			_, l := f.claim(e.Key)
			before := f.get(e.Key)
			for _, wrong := range []eval.Lease{old, {Key: e.Key, Attempt: l.Attempt + 1}, {Key: e.Key}, {Key: e.Key, Attempt: -1}} {
				_, err = f.Beat(f.ctx, wrong, lease)
				kind(f, eval.KindLeaseLost, err)
				_, err = f.Finish(f.ctx, wrong, accepted("late"))
				kind(f, eval.KindLeaseLost, err)
			}
			same(f, before, f.get(e.Key))
			require.Equal(f, eval.Completed, f.finish(l, accepted("x")).Status)
			_, err = f.Finish(f.ctx, old, accepted("later still"))
			kind(f, eval.KindLeaseLost, err)
			require.Equal(f, "x", string(f.get(e.Key).Result.Stdout.Data))
		},
		"a lease on nothing is lost": func(f *fixture) {
			e := f.create()
			for _, key := range append(strangers(e.Key), e.Key) {
				_, err := f.Beat(f.ctx, eval.Lease{Key: key, Attempt: 1}, lease)
				kind(f, eval.KindLeaseLost, err)
				_, err = f.Finish(f.ctx, eval.Lease{Key: key, Attempt: 1}, accepted(""))
				kind(f, eval.KindLeaseLost, err)
			}
			same(f, e, f.get(e.Key))
		},
		"a beat after the lease ran out holds it, if nobody was faster": func(f *fixture) {
			_, l := f.running()
			f.clock.Advance(lease + time.Second)
			_, err := f.Beat(f.ctx, l, lease)
			require.NoError(f, err)
			reaped, err := f.Reap(f.ctx, 10)
			require.NoError(f, err)
			require.Empty(f, reaped)
		},
	})
}

func testFinish(t *testing.T, open OpenStore) {
	each(t, open, map[string]func(*fixture){
		"a result completes it": func(f *fixture) {
			e, l := f.running()
			f.clock.Advance(time.Second)
			got := f.finish(l, accepted("hello\n"))
			require.Equal(f, eval.Completed, got.Status)
			require.Equal(f, eval.Accepted, got.Verdict)
			require.Equal(f, "executor-1", got.Executor)
			require.Nil(f, got.LeaseUntil)
			require.True(f, f.clock.Now().Equal(*got.FinishedAt))
			require.Equal(f, "print(1)", got.Spec.Code.String())
			same(f, got, f.get(e.Key))
			a := f.attempts(e.Key)[0]
			require.Equal(f, eval.AttemptCompleted, a.Outcome)
			require.Equal(f, 12.5, a.WallMS)
			require.Equal(f, 9.25, a.CPUMS)
			require.EqualValues(f, 8<<20, a.MemoryPeak)
			require.Equal(f, "executor-1", a.Executor)
			require.True(f, f.clock.Now().Equal(*a.FinishedAt))
			events := f.events(e.Key)
			require.Equal(f, []eval.EventType{eval.EventQueued, eval.EventRunning, eval.EventCompleted}, types(events))
			require.Equal(f, eval.Accepted, events[2].Verdict)
		},
		"every part and byte of a result is kept": func(f *fixture) {
			e, l := f.running()
			code := 3
			stream := eval.Stream{Data: everyByte(), Bytes: 256}
			big := eval.Stream{Data: make([]byte, eval.InlineBytes), Bytes: 50 << 20, Truncated: true, Blob: "aa"}
			o := eval.Outcome{Executor: "x", Result: &eval.Result{
				Verdict: eval.RuntimeError, Cause: eval.CauseExitCode, Usage: eval.Usage{ExitCode: &code, WallMS: 0.1, Processes: 3},
				Stdout: big, Stderr: stream, Explanation: "it said 3 <&>",
				Compile: &eval.Phase{Usage: eval.Usage{Signal: "SIGSEGV"}, Stdout: stream, Stderr: stream},
				Tests:   []eval.TestResult{{Name: "t", Verdict: eval.WrongAnswer, Cause: eval.CauseTest, Message: "line 1\x00", Stdout: stream, Stderr: stream}, {Verdict: eval.Skipped}},
				Artifacts: []eval.Artifact{
					{Path: "out/ü\n<>", SHA256: "bb", Content: stream}, {Path: "big", SHA256: "cc", Content: eval.Stream{Data: big.Data, Bytes: 5 << 20, Blob: "cc"}},
					{Path: "link", Error: "is not a regular file"}, {Path: "huge", Error: "is too large", Content: eval.Stream{Bytes: 1 << 40}}, {Path: "empty", SHA256: "dd"},
				},
				ArtifactsCut: true,
				Language:     eval.LanguageRef{ID: "c", Version: "14"},
				Isolation:    eval.Isolation{Level: "namespaces", Controls: []eval.Control{{Name: "network", State: eval.ControlEnforced}}},
			}}
			got := f.finish(l, o)
			require.Equal(f, eval.CauseExitCode, got.Cause)
			same(f, o.Result, got.Result)
			same(f, o.Result, f.get(e.Key).Result)
			require.Equal(f, everyByte(), f.get(e.Key).Result.Stderr.Data)
		},
		"the same report again changes nothing": func(f *fixture) {
			for name, o := range map[string]eval.Outcome{
				"completed": accepted("x"), "failed": platformFailure(eval.KindInvalid), "retried": platformFailure(eval.KindUnavailable),
			} {
				e, l := f.running()
				first := f.finish(l, o)
				f.clock.Advance(time.Second)
				same(f, first, f.finish(l, o), name)
				same(f, first, f.get(e.Key), name)
				require.Len(f, f.events(e.Key), 3, name)
				require.Len(f, f.attempts(e.Key), 1, name)
			}
		},
		"an old report again, after another attempt, changes nothing": func(f *fixture) {
			e, first := f.running()
			f.finish(first, platformFailure(eval.KindStopping))
			_, second := f.claim(e.Key)
			got := f.finish(first, platformFailure(eval.KindStopping))
			require.Equal(f, eval.Running, got.Status)
			require.Equal(f, 2, got.Attempt)
			require.Equal(f, eval.Completed, f.finish(second, accepted("")).Status)
		},
		"what lies in no blob must not be cut": func(f *fixture) {
			_, l := f.running()
			o := accepted("")
			o.Result.Artifacts = []eval.Artifact{{Path: "a", Content: eval.Stream{Data: make([]byte, eval.InlineBytes+1), Bytes: eval.InlineBytes + 1}}}
			_, err := f.Finish(f.ctx, l, o)
			require.Equal(f, eval.KindInvalid, eval.KindOf(err), "an artifact")
			for name, s := range map[string]eval.Stream{
				"too long": {Data: make([]byte, eval.InlineBytes+1), Bytes: eval.InlineBytes + 1},
				"lost":     {Data: []byte("x"), Bytes: 2},
			} {
				o := accepted("")
				o.Result.Stderr = s
				_, err := f.Finish(f.ctx, l, o)
				require.Equal(f, eval.KindInvalid, eval.KindOf(err), name)
			}
			_, err = f.Finish(f.ctx, l, eval.Outcome{})
			kind(f, eval.KindInvalid, err)
			require.Equal(f, eval.Running, f.get(l.Key).Status)
		},
		"a failure's kind decides": func(f *fixture) {
			for _, info := range eval.Kinds() {
				e, l := f.running()
				got := f.finish(l, platformFailure(info.Kind))
				if info.Retry == eval.RetryNever {
					require.Equal(f, eval.Failed, got.Status, info.Kind)
					require.Equal(f, info.Kind, got.Failure.Kind)
					require.Equal(f, eval.AttemptFailed, f.attempts(e.Key)[0].Outcome, info.Kind)
					continue
				}
				require.Equal(f, eval.Queued, got.Status, info.Kind)
				require.Equal(f, 2, got.DispatchSeq)
				require.NotNil(f, got.NextDispatchAt)
				require.Equal(f, info.Kind, got.Failure.Kind)
				wait := got.NextDispatchAt.Sub(f.clock.Now())
				switch info.Retry {
				case eval.RetryAtOnce:
					require.Zero(f, wait)
					require.Zero(f, got.Tries)
				case eval.RetryCounted:
					require.Equal(f, 1, got.Tries)
					require.True(f, wait >= 2*time.Second && wait <= 2500*time.Millisecond, "%v", wait)
				case eval.RetryLater:
					require.Zero(f, got.Tries)
					require.True(f, wait >= 10*time.Second && wait <= 12500*time.Millisecond, "%v", wait)
				}
				require.Equal(f, eval.AttemptRetried, f.attempts(e.Key)[0].Outcome)
				require.Equal(f, []eval.EventType{eval.EventQueued, eval.EventRunning, eval.EventRequeued}, types(f.events(e.Key)))
				same(f, got, f.get(e.Key))
			}
		},
		"a failure may say when": func(f *fixture) {
			_, l := f.running()
			o := platformFailure(eval.KindFull)
			o.RetryAfter = time.Minute
			got := f.finish(l, o)
			require.True(f, f.clock.Now().Add(time.Minute).Equal(*got.NextDispatchAt))
		},
		"when the tries are used up it is a dead letter": func(f *fixture) {
			e := f.create(func(e *eval.Evaluation) { e.Spec.RetryPolicy = eval.PolicyConservative })
			for range 2 {
				_, l := f.claim(e.Key)
				require.Equal(f, eval.Queued, f.finish(l, platformFailure(eval.KindSandbox)).Status)
			}
			_, l := f.claim(e.Key)
			require.Equal(f, eval.Failed, f.finish(l, platformFailure(eval.KindSandbox)).Status)
			page, err := f.ListDeadLetters(f.ctx, eval.DeadLetterQuery{Project: eval.DefaultProject})
			require.NoError(f, err)
			require.Len(f, page.DeadLetters, 1)
			require.Equal(f, 3, page.DeadLetters[0].Attempts)
			require.Equal(f, eval.Failure{Kind: eval.KindSandbox, Message: "it broke; that was the last of 3 tries"}, page.DeadLetters[0].Failure)
		},
		"words may hold any bytes": func(f *fixture) {
			e, l := f.running()
			got := f.finish(l, eval.Outcome{Executor: "a\x00", Failure: &eval.Failure{Kind: eval.KindInvalid, Message: "no\x00\xff"}})
			require.Equal(f, eval.Failed, got.Status)
			require.Equal(f, eval.Failed, f.get(e.Key).Status)
		},
	})
}
