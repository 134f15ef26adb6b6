package evaltest

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/pkg/eval"
)

func everyByte() []byte {
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	return all
}

func testIntake(t *testing.T, open OpenStore) {
	each(t, open, map[string]func(*fixture){
		"create writes it queued, with event 1": func(f *fixture) {
			e := f.create(func(e *eval.Evaluation) {
				e.BatchID, e.Trace = "batch-1", "00-trace"
				e.Spec.Tags = []string{"a", "b", "a"}
				e.Status, e.Attempt, e.EventSeq, e.Worker = eval.Completed, 7, 9, "nobody" // the store's, not the client's
			})
			now := f.clock.Now()
			require.Equal(f, eval.Queued, e.Status)
			require.Equal(f, "batch-1", e.BatchID)
			require.Equal(f, "00-trace", e.Trace)
			require.Zero(f, e.Attempt)
			require.Empty(f, e.Worker)
			require.Equal(f, 1, e.DispatchSeq)
			require.EqualValues(f, 1, e.EventSeq)
			require.True(f, now.Equal(e.CreatedAt), "%v", e.CreatedAt)
			require.Equal(f, time.UTC, e.CreatedAt.Location())
			require.True(f, now.Add(eval.DefaultRules().FirstLook).Equal(*e.NextDispatchAt))
			same(f, e, f.get(e.Key))
			events := f.events(e.Key)
			require.Len(f, events, 1)
			require.Equal(f, eval.EventQueued, events[0].Type)
			require.EqualValues(f, 1, events[0].Seq)
			require.Empty(f, f.attempts(e.Key))
		},
		"a batch is written whole and in order": func(f *fixture) {
			var s eval.Submission
			for range 1000 {
				s.Evaluations = append(s.Evaluations, eval.Evaluation{Key: f.key(), Spec: program("1"), BatchID: "b"})
			}
			created, _, err := f.Create(f.ctx, s)
			require.NoError(f, err)
			require.Len(f, created, 1000)
			for i := range created {
				require.Equal(f, s.Evaluations[i].ID, created[i].ID)
			}
			stats, err := f.Stats(f.ctx, eval.DefaultProject)
			require.NoError(f, err)
			require.EqualValues(f, 1000, stats.Statuses[eval.Queued])
		},
		"a batch with an id that exists is written not at all": func(f *fixture) {
			old := f.create()
			s := eval.Submission{Evaluations: []eval.Evaluation{{Key: f.key(), Spec: program("1")}, {Key: old.Key, Spec: program("2")}}}
			_, _, err := f.Create(f.ctx, s)
			kind(f, eval.KindConflict, err)
			_, err = f.Get(f.ctx, s.Evaluations[0].Key)
			kind(f, eval.KindNotFound, err)
			same(f, old, f.get(old.Key))
			require.Len(f, f.events(old.Key), 1)
		},
		"an id twice in one batch is refused": func(f *fixture) {
			e := eval.Evaluation{Key: f.key(), Spec: program("1")}
			_, _, err := f.Create(f.ctx, eval.Submission{Evaluations: []eval.Evaluation{e, e}})
			kind(f, eval.KindConflict, err)
			_, err = f.Get(f.ctx, e.Key)
			kind(f, eval.KindNotFound, err)
		},
		"none, or several projects, are refused": func(f *fixture) {
			_, _, err := f.Create(f.ctx, eval.Submission{})
			kind(f, eval.KindInvalid, err)
			a, b := f.key(), f.key()
			b.Project = "other"
			_, _, err = f.Create(f.ctx, eval.Submission{Evaluations: []eval.Evaluation{{Key: a, Spec: program("1")}, {Key: b, Spec: program("1")}}})
			kind(f, eval.KindInvalid, err)
			_, err = f.Get(f.ctx, a)
			kind(f, eval.KindNotFound, err)
		},
		"text that no database keeps is refused": func(f *fixture) {
			for name, edit := range map[string]func(*eval.Evaluation){
				"NUL in a tag":     func(e *eval.Evaluation) { e.Spec.Tags = []string{"a\x00b"} },
				"NUL in the batch": func(e *eval.Evaluation) { e.BatchID = "\x00" },
				"NUL in the id":    func(e *eval.Evaluation) { e.ID = "\x00" },
			} {
				e := eval.Evaluation{Key: f.key(), Spec: program("1")}
				edit(&e)
				_, _, err := f.Create(f.ctx, eval.Submission{Evaluations: []eval.Evaluation{e}})
				require.Equal(f, eval.KindInvalid, eval.KindOf(err), name)
			}
		},
		"every byte of the program is kept": func(f *fixture) {
			stdin, want := eval.Bytes(everyByte()), eval.Bytes("\x00\xff")
			runAt := f.clock.Now().Add(-time.Hour)
			e := f.create(func(e *eval.Evaluation) {
				e.Spec = eval.Spec{
					Program: eval.Program{
						Language: "c", Entrypoint: "main.c", Stdin: stdin, Args: []string{"--a", "b c", ""},
						Files:         map[string]eval.Bytes{"main.c": append([]byte("\x00"), everyByte()...), "sub/ä.h": eval.Bytes("x")},
						Env:           map[string]string{"LANG": "C", "EMPTY": ""},
						Limits:        eval.Limits{WallMS: 1, CPUMS: 2, MemoryBytes: 3 << 40, Processes: 4, OutputBytes: 5, DiskBytes: 6},
						Tests:         []eval.Test{{Name: "t", Stdin: stdin, Args: []string{"x"}, ExpectedStdout: &want, Checker: eval.Checker{Type: eval.CheckExact}, Limits: eval.Limits{WallMS: 7}}, {}},
						Checker:       eval.Checker{Type: eval.CheckProgram, Language: "c", Files: map[string]eval.Bytes{"check.c": everyByte()}, Limits: eval.Limits{CPUMS: 1}},
						StopOnFailure: true, Parallel: 4, Artifacts: []eval.Pattern{"out/**/*.png", "<&>"},
						MinIsolation: "namespaces", Warm: eval.WarmPrestart,
					},
					Priority: eval.PriorityLow, RetryPolicy: eval.PolicyAggressive, Tags: []string{"<&>", "ü"}, RunAt: &runAt,
				}
			})
			got := f.get(e.Key)
			same(f, e, got)
			require.Equal(f, stdin, got.Spec.Stdin)
			require.Equal(f, append([]byte("\x00"), everyByte()...), []byte(got.Spec.Files["main.c"]))
			require.Equal(f, want, *got.Spec.Tests[0].ExpectedStdout)
			claimed, _ := f.claim(e.Key)
			same(f, got.Spec, claimed.Spec)
		},
		"900 kB of code": func(f *fixture) {
			code := bytes.Repeat([]byte("print('\x00\xfe')\n"), 900_000/13)
			e := f.create(func(e *eval.Evaluation) { e.Spec.Code = code })
			require.Equal(f, code, []byte(f.get(e.Key).Spec.Code))
			claimed, _ := f.claim(e.Key)
			require.Equal(f, code, []byte(claimed.Spec.Code))
		},
		"what a caller changes afterwards is not what is kept": func(f *fixture) {
			code := eval.Bytes("print(1)")
			e := f.create(func(e *eval.Evaluation) { e.Spec.Code, e.Spec.Tags = code, []string{"a"} })
			code[0], e.Spec.Tags[0] = 'X', "changed"
			got := f.get(e.Key)
			got.Spec.Code[1], *got.NextDispatchAt = 'X', time.Time{}
			require.Equal(f, "print(1)", f.get(e.Key).Spec.Code.String())
			require.Equal(f, []string{"a"}, f.get(e.Key).Spec.Tags)
			require.False(f, f.get(e.Key).NextDispatchAt.IsZero())
		},
		"run_at is when it is due": func(f *fixture) {
			at := f.clock.Now().Add(time.Hour).Add(7 * time.Nanosecond)
			e := f.create(func(e *eval.Evaluation) { e.Spec.RunAt = &at })
			require.True(f, eval.StoreTime(at).Equal(*e.NextDispatchAt))
			same(f, e, f.get(e.Key))
		},
		"an idempotency key returns the first evaluations as they are now": func(f *fixture) {
			s := eval.Submission{IdempotencyKey: "k", Fingerprint: "f", Evaluations: []eval.Evaluation{
				{Key: f.key(), Spec: program("1")}, {Key: f.key(), Spec: program("2")}}}
			first, replayed, err := f.Create(f.ctx, s)
			require.NoError(f, err)
			require.False(f, replayed)
			claimed, _ := f.claim(first[1].Key)
			again := s
			again.Evaluations = []eval.Evaluation{{Key: f.key(), Spec: program("1")}, {Key: f.key(), Spec: program("2")}}
			second, replayed, err := f.Create(f.ctx, again)
			require.NoError(f, err)
			require.True(f, replayed)
			same(f, []eval.Evaluation{first[0], claimed}, second)
			_, err = f.Get(f.ctx, again.Evaluations[0].Key)
			kind(f, eval.KindNotFound, err)
		},
		"what was accepted elsewhere before has that age": func(f *fixture) {
			before := f.clock.Now()
			f.clock.Advance(time.Hour)
			sub := eval.Submission{AcceptedAt: before, IdempotencyKey: "k", Evaluations: []eval.Evaluation{{Key: f.key(), Spec: program("1")}}}
			sub.Evaluations[0].Spec.ExpiresIn = eval.Duration(2 * time.Hour)
			created, _, err := f.Create(f.ctx, sub)
			require.NoError(f, err)
			require.Equal(f, before, created[0].CreatedAt)
			require.Equal(f, before.Add(2*time.Hour), *created[0].ExpiresAt)
			require.Equal(f, f.clock.Now(), f.events(created[0].Key)[0].At)
			same(f, created[0], f.get(created[0].Key))
			_, replayed, err := f.Create(f.ctx, sub)
			require.NoError(f, err)
			require.True(f, replayed)

			later := eval.Submission{AcceptedAt: f.clock.Now().Add(time.Hour), Evaluations: []eval.Evaluation{{Key: f.key(), Spec: program("1")}}}
			created, _, err = f.Create(f.ctx, later)
			require.NoError(f, err)
			require.Equal(f, f.clock.Now(), created[0].CreatedAt, "never in the future")
		},
		"an idempotency key with another request is refused": func(f *fixture) {
			s := eval.Submission{IdempotencyKey: "k", Fingerprint: "f", Evaluations: []eval.Evaluation{{Key: f.key(), Spec: program("1")}}}
			_, _, err := f.Create(f.ctx, s)
			require.NoError(f, err)
			s.Fingerprint, s.Evaluations[0].Key = "g", f.key()
			_, _, err = f.Create(f.ctx, s)
			kind(f, eval.KindKeyReused, err)
			_, err = f.Get(f.ctx, s.Evaluations[0].Key)
			kind(f, eval.KindNotFound, err)
		},
		"an idempotency key belongs to its project": func(f *fixture) {
			s := eval.Submission{IdempotencyKey: "k", Fingerprint: "f", Evaluations: []eval.Evaluation{{Key: f.key(), Spec: program("1")}}}
			_, _, err := f.Create(f.ctx, s)
			require.NoError(f, err)
			s.Evaluations[0].Project, s.Fingerprint = "other", "g"
			_, replayed, err := f.Create(f.ctx, s)
			require.NoError(f, err)
			require.False(f, replayed)
		},
		"an idempotency key belongs to its client": func(f *fixture) {
			mine := eval.Submission{IdempotencyKey: "k", Fingerprint: "f", Evaluations: []eval.Evaluation{{Key: f.key(), Spec: program("1"), Client: "ann"}}}
			first, _, err := f.Create(f.ctx, mine)
			require.NoError(f, err)
			require.Equal(f, "ann", first[0].Client)
			for _, client := range []string{"bob", ""} {
				for _, fingerprint := range []string{"f", "g"} {
					theirs := eval.Submission{IdempotencyKey: "k", Fingerprint: fingerprint, Recall: true,
						Evaluations: []eval.Evaluation{{Key: f.key(), Spec: program("1"), Client: client}}}
					_, _, err := f.Create(f.ctx, theirs)
					kind(f, eval.KindNotFound, err)
				}
				theirs := eval.Submission{IdempotencyKey: "k", Fingerprint: "g", Evaluations: []eval.Evaluation{{Key: f.key(), Spec: program("1"), Client: client}}}
				created, replayed, err := f.Create(f.ctx, theirs)
				require.NoError(f, err)
				require.False(f, replayed)
				require.Equal(f, theirs.Evaluations[0].Key, created[0].Key)
			}
			mine.Evaluations[0].Key = f.key()
			again, replayed, err := f.Create(f.ctx, mine)
			require.NoError(f, err)
			require.True(f, replayed)
			same(f, first, again)
		},
		"a recall writes nothing": func(f *fixture) {
			s := eval.Submission{IdempotencyKey: "k", Fingerprint: "f", Evaluations: []eval.Evaluation{{Key: f.key(), Spec: program("1")}}}
			recall := s
			recall.Recall = true
			_, _, err := f.Create(f.ctx, recall)
			kind(f, eval.KindNotFound, err)
			_, err = f.Get(f.ctx, s.Evaluations[0].Key)
			kind(f, eval.KindNotFound, err)
			first, replayed, err := f.Create(f.ctx, s)
			require.NoError(f, err)
			require.False(f, replayed, "the key was not used up")
			recall.Evaluations = []eval.Evaluation{{Key: f.key(), Spec: program("1")}}
			again, replayed, err := f.Create(f.ctx, recall)
			require.NoError(f, err)
			require.True(f, replayed)
			same(f, first, again)
			recall.Fingerprint = "g"
			_, _, err = f.Create(f.ctx, recall)
			kind(f, eval.KindKeyReused, err)
			recall.IdempotencyKey = ""
			_, _, err = f.Create(f.ctx, recall)
			kind(f, eval.KindNotFound, err)
		},
		"all of a submission belong to one client": func(f *fixture) {
			_, _, err := f.Create(f.ctx, eval.Submission{Evaluations: []eval.Evaluation{
				{Key: f.key(), Spec: program("1"), Client: "ann"}, {Key: f.key(), Spec: program("1"), Client: "bob"}}})
			kind(f, eval.KindInvalid, err)
		},
		"an idempotency key is remembered for a day, and not for ever": func(f *fixture) {
			s := eval.Submission{IdempotencyKey: "k", Fingerprint: "f", Evaluations: []eval.Evaluation{{Key: f.key(), Spec: program("1")}}}
			_, _, err := f.Create(f.ctx, s)
			require.NoError(f, err)
			f.clock.Advance(eval.IdempotencyWindow - time.Second)
			s.Evaluations[0].Key = f.key()
			_, replayed, err := f.Create(f.ctx, s)
			require.NoError(f, err)
			require.True(f, replayed)
			f.clock.Advance(2 * time.Second)
			s.Fingerprint = "g"
			_, replayed, err = f.Create(f.ctx, s)
			require.NoError(f, err)
			require.False(f, replayed)
			s.Evaluations[0].Key = f.key()
			_, replayed, err = f.Create(f.ctx, s)
			require.NoError(f, err)
			require.True(f, replayed)
		},
		"a refused submission does not use up its key": func(f *fixture) {
			old := f.create()
			s := eval.Submission{IdempotencyKey: "k", Fingerprint: "f", Evaluations: []eval.Evaluation{{Key: old.Key, Spec: program("1")}}}
			_, _, err := f.Create(f.ctx, s)
			kind(f, eval.KindConflict, err)
			s.Evaluations[0].Key = f.key()
			_, replayed, err := f.Create(f.ctx, s)
			require.NoError(f, err)
			require.False(f, replayed)
		},
	})
}

func testCancel(t *testing.T, open OpenStore) {
	each(t, open, map[string]func(*fixture){
		"queued: it ends at once": func(f *fixture) {
			e := f.create()
			f.clock.Advance(time.Second)
			got, err := f.Cancel(f.ctx, e.Key, "no longer needed")
			require.NoError(f, err)
			require.Equal(f, eval.Cancelled, got.Status)
			require.Equal(f, "no longer needed", got.Reason)
			require.True(f, f.clock.Now().Equal(*got.FinishedAt))
			require.Nil(f, got.NextDispatchAt)
			same(f, got, f.get(e.Key))
			require.Equal(f, []eval.EventType{eval.EventQueued, eval.EventCancelled}, types(f.events(e.Key)))
			require.Equal(f, "no longer needed", f.events(e.Key)[1].Message)
		},
		"running: it is marked, and asking again changes nothing": func(f *fixture) {
			e, l := f.running()
			got, err := f.Cancel(f.ctx, e.Key, "first")
			require.NoError(f, err)
			require.Equal(f, eval.Running, got.Status)
			require.NotNil(f, got.CancelRequestedAt)
			f.clock.Advance(time.Second)
			again, err := f.Cancel(f.ctx, e.Key, "second")
			require.NoError(f, err)
			same(f, got, again)
			beat, err := f.Beat(f.ctx, l, lease)
			require.NoError(f, err)
			require.True(f, beat.CancelRequested)
			require.Equal(f, []eval.EventType{eval.EventQueued, eval.EventRunning, eval.EventCancelRequested}, types(f.events(e.Key)))
			o := accepted("partial")
			o.Cancelled = true
			done := f.finish(l, o)
			require.Equal(f, eval.Cancelled, done.Status)
			require.Equal(f, "first", done.Reason)
			require.Equal(f, "partial", string(done.Result.Stdout.Data))
			require.Empty(f, done.Verdict)
			require.Equal(f, eval.AttemptCancelled, f.attempts(e.Key)[0].Outcome)
		},
		"running: a result that was faster counts": func(f *fixture) {
			e, l := f.running()
			_, err := f.Cancel(f.ctx, e.Key, "too late")
			require.NoError(f, err)
			require.Equal(f, eval.Completed, f.finish(l, accepted("x")).Status)
		},
		"running: a failure of the platform ends it": func(f *fixture) {
			e, l := f.running()
			_, err := f.Cancel(f.ctx, e.Key, "")
			require.NoError(f, err)
			require.Equal(f, eval.Cancelled, f.finish(l, platformFailure(eval.KindUnavailable)).Status)
		},
		"running: when its worker vanishes, it ends": func(f *fixture) {
			e, _ := f.running()
			_, err := f.Cancel(f.ctx, e.Key, "")
			require.NoError(f, err)
			f.clock.Advance(lease)
			reaped, err := f.Reap(f.ctx, 10)
			require.NoError(f, err)
			require.Len(f, reaped, 1)
			require.Equal(f, eval.Cancelled, reaped[0].Status)
		},
		"ended: a conflict that says how": func(f *fixture) {
			e, l := f.running()
			f.finish(l, accepted("x"))
			done := f.get(e.Key)
			_, err := f.Cancel(f.ctx, e.Key, "")
			require.Equal(f, eval.Completed, kind(f, eval.KindConflict, err).Status)
			same(f, done, f.get(e.Key))
			bad := f.failed(eval.KindInvalid)
			_, err = f.Cancel(f.ctx, bad.Key, "")
			require.Equal(f, eval.Failed, kind(f, eval.KindConflict, err).Status)
			gone := f.create()
			_, err = f.Cancel(f.ctx, gone.Key, "")
			require.NoError(f, err)
			_, err = f.Cancel(f.ctx, gone.Key, "")
			require.Equal(f, eval.Cancelled, kind(f, eval.KindConflict, err).Status)
		},
		"unknown, or of another project: not found": func(f *fixture) {
			e := f.create()
			for _, key := range strangers(e.Key) {
				_, err := f.Cancel(f.ctx, key, "")
				kind(f, eval.KindNotFound, err)
			}
			same(f, e, f.get(e.Key))
		},
		"a reason may hold any bytes": func(f *fixture) {
			e := f.create()
			got, err := f.Cancel(f.ctx, e.Key, "why\x00not\xff")
			require.NoError(f, err)
			require.True(f, strings.HasPrefix(got.Reason, "why"))
			require.Equal(f, eval.Cancelled, f.get(e.Key).Status)
		},
	})
}

// strangers are keys that are not in the store where key is.
func strangers(key eval.Key) []eval.Key {
	return []eval.Key{
		{Project: "other", ID: key.ID}, {Project: key.Project, ID: "019a0000-0000-7000-8000-ffffffffffff"},
		{Project: key.Project, ID: ""}, {}, {Project: key.Project, ID: "../../etc/passwd"}, {Project: key.Project, ID: "a\x00b"},
		{Project: key.Project, ID: key.ID + "' OR '1'='1"},
	}
}
