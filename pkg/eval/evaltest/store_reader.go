package evaltest

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/pkg/testkit"
)

// feed waits until the feed after a cursor has n events: a store may hold
// them back for a moment while others are being written.
func (f *fixture) feed(project string, after int64, n int) []eval.Event {
	f.Helper()
	var events []eval.Event
	testkit.Eventually(f.T, func() bool {
		var err error
		events, err = f.Feed(f.ctx, project, after, 1000)
		require.NoError(f, err)
		return len(events) >= n
	}, fmt.Sprintf("the feed has %d events", n))
	require.Len(f, events, n)
	return events
}

func testReader(t *testing.T, open OpenStore) {
	each(t, open, map[string]func(*fixture){
		"a key of another project, or of nothing, is not found": func(f *fixture) {
			e, _ := f.running()
			for _, key := range strangers(e.Key) {
				_, err := f.Get(f.ctx, key)
				kind(f, eval.KindNotFound, err)
				events, err := f.Events(f.ctx, key, 0, 10)
				require.NoError(f, err)
				require.Empty(f, events)
				attempts, err := f.Attempts(f.ctx, key)
				require.NoError(f, err)
				require.Empty(f, attempts)
			}
			other := f.create(func(o *eval.Evaluation) { o.Key = eval.Key{Project: "other", ID: e.ID} })
			require.Equal(f, eval.Queued, f.get(other.Key).Status, "the same id in another project is another evaluation")
			require.Equal(f, eval.Running, f.get(e.Key).Status)
		},
		"clients are counted by what they have in hand": func(f *fixture) {
			counts := func() []eval.ClientCount {
				f.Helper()
				all, err := f.Clients(f.ctx, eval.DefaultProject)
				require.NoError(f, err)
				return all
			}
			require.Empty(f, counts())
			of := func(client string) func(*eval.Evaluation) { return func(e *eval.Evaluation) { e.Client = client } }
			var bobs []eval.Evaluation
			for range 3 {
				bobs = append(bobs, f.create(of("bob")))
			}
			f.create(of("Ann"))
			f.create(of(""))
			f.create(of("bob"), func(e *eval.Evaluation) { e.Spec.RunAt = new(f.clock.Now().Add(time.Hour)) })
			f.create(of("bob"), func(e *eval.Evaluation) { e.Project = "other" })
			_, l := f.claim(bobs[0].Key)
			f.claim(bobs[1].Key)
			require.Equal(f, []eval.ClientCount{{Client: "", Queued: 1}, {Client: "Ann", Queued: 1}, {Client: "bob", Queued: 2, Running: 2}}, counts())
			f.finish(l, accepted(""))
			_, err := f.Cancel(f.ctx, bobs[2].Key, "")
			require.NoError(f, err)
			require.Equal(f, []eval.ClientCount{{Client: "", Queued: 1}, {Client: "Ann", Queued: 1}, {Client: "bob", Queued: 1, Running: 1}}, counts())

			page, err := f.List(f.ctx, eval.Query{Project: eval.DefaultProject, Client: "bob"})
			require.NoError(f, err)
			require.Len(f, page.Evaluations, 4)
			for _, e := range page.Evaluations {
				require.Equal(f, "bob", e.Client)
			}
			page, err = f.List(f.ctx, eval.Query{Project: eval.DefaultProject, Client: "bo"})
			require.NoError(f, err)
			require.Empty(f, page.Evaluations)
		},
		"events are numbered from 1 and read in parts": func(f *fixture) {
			e, l := f.running()
			f.finish(l, platformFailure(eval.KindStopping))
			f.clock.Advance(time.Second)
			_, l = f.claim(e.Key)
			f.finish(l, accepted(""))
			all := f.events(e.Key)
			require.Len(f, all, 5)
			for i, event := range all {
				require.EqualValues(f, i+1, event.Seq)
				require.Equal(f, e.Key, event.Key)
				if i > 0 {
					require.Greater(f, event.Cursor, all[i-1].Cursor)
				}
			}
			require.Equal(f, "it broke; it is tried again now, which does not count as a try", all[2].Message)
			require.Equal(f, worker, all[1].Worker)
			require.Equal(f, 2, all[4].Attempt)
			require.True(f, f.clock.Now().Equal(all[4].At))
			require.EqualValues(f, 5, f.get(e.Key).EventSeq)
			part, err := f.Events(f.ctx, e.Key, 1, 2)
			require.NoError(f, err)
			same(f, all[1:3], part)
			none, err := f.Events(f.ctx, e.Key, 5, 10)
			require.NoError(f, err)
			require.Empty(f, none)
		},
		"the feed has the events of a project in the order of their cursors": func(f *fixture) {
			newest, err := f.Feed(f.ctx, eval.DefaultProject, -1, 10)
			require.NoError(f, err)
			require.Empty(f, newest)
			a := f.create()
			f.create(func(e *eval.Evaluation) { e.Project = "other" })
			b := f.create()
			f.claim(a.Key)
			all := f.feed(eval.DefaultProject, 0, 3)
			require.Equal(f, []eval.ID{a.ID, b.ID, a.ID}, []eval.ID{all[0].ID, all[1].ID, all[2].ID})
			same(f, all[2:], f.feed(eval.DefaultProject, all[1].Cursor, 1))
			same(f, all[2:], f.feed(eval.DefaultProject, -1, 1))
			part, err := f.Feed(f.ctx, eval.DefaultProject, 0, 2)
			require.NoError(f, err)
			same(f, all[:2], part)
			require.Len(f, f.feed("other", 0, 1), 1)
			same(f, all[2], f.events(a.Key)[1])
		},
		"the feed of a batch": func(f *fixture) {
			s := eval.Submission{}
			for range 100 {
				s.Evaluations = append(s.Evaluations, eval.Evaluation{Key: f.key(), Spec: program("1")})
			}
			_, _, err := f.Create(f.ctx, s)
			require.NoError(f, err)
			events := f.feed(eval.DefaultProject, 0, 100)
			for i := range events {
				require.Equal(f, s.Evaluations[i].ID, events[i].ID)
				require.True(f, i == 0 || events[i].Cursor > events[i-1].Cursor)
			}
		},
		"stats count": func(f *fixture) {
			empty, err := f.Stats(f.ctx, eval.DefaultProject)
			require.NoError(f, err)
			require.Len(f, empty.Statuses, len(eval.Statuses()))
			require.Empty(f, empty.Verdicts)
			require.Nil(f, empty.OldestQueuedAt)
			at := f.clock.Now().Add(time.Hour)
			f.create(func(e *eval.Evaluation) { e.Spec.RunAt = &at }) // waits, but is not due
			f.clock.Advance(time.Second)
			oldest := f.create()
			f.clock.Advance(time.Second)
			f.create()
			f.running()
			f.failed(eval.KindInvalid)
			_, l := f.running()
			f.finish(l, accepted(""))
			f.failed(eval.KindInvalid, func(e *eval.Evaluation) { e.Project = "other" })
			stats, err := f.Stats(f.ctx, eval.DefaultProject)
			require.NoError(f, err)
			require.Equal(f, map[eval.Status]int64{eval.Queued: 3, eval.Running: 1, eval.Completed: 1, eval.Failed: 1, eval.Cancelled: 0}, stats.Statuses)
			require.Equal(f, map[eval.Verdict]int64{eval.Accepted: 1}, stats.Verdicts)
			require.EqualValues(f, 1, stats.DeadLetters)
			require.True(f, oldest.CreatedAt.Equal(*stats.OldestQueuedAt))
		},
		"a list shows summaries": func(f *fixture) {
			e := f.create(func(e *eval.Evaluation) {
				e.Spec.Stdin, e.Spec.Env, e.Spec.Tags = eval.Bytes("x"), map[string]string{"A": "b"}, []string{"t"}
				e.Spec.Limits.WallMS = 7
			})
			_, l := f.claim(e.Key)
			done := f.finish(l, accepted("hello"))
			page, err := f.List(f.ctx, eval.Query{Project: e.Project})
			require.NoError(f, err)
			require.Len(f, page.Evaluations, 1)
			same(f, done.Summary(), page.Evaluations[0])
			require.Empty(f, page.Next)
			require.Equal(f, "hello", string(f.get(e.Key).Result.Stdout.Data))
		},
	})
}

// sample fills a store with evaluations of many sorts, several with the same
// created_at, and returns them as they are, newest first.
func (f *fixture) sample(n int) []eval.Evaluation {
	f.Helper()
	rnd := rand.New(rand.NewPCG(1, 2))
	var all []eval.Evaluation
	for i := range n {
		e := f.create(func(e *eval.Evaluation) {
			e.Spec.Language = []string{"python", "c", "go"}[rnd.IntN(3)]
			for _, tag := range []string{"a", "b", "it's"} {
				if rnd.IntN(2) == 0 {
					e.Spec.Tags = append(e.Spec.Tags, tag)
				}
			}
			e.BatchID = []string{"", "one", "two"}[rnd.IntN(3)]
		})
		switch i % 6 {
		case 1:
			f.claim(e.Key)
		case 2, 3:
			_, l := f.claim(e.Key)
			o := accepted("x")
			o.Result.Verdict = []eval.Verdict{eval.Accepted, eval.TimeLimit}[rnd.IntN(2)]
			f.finish(l, o)
		case 4:
			_, l := f.claim(e.Key)
			f.finish(l, platformFailure([]eval.Kind{eval.KindInvalid, eval.KindPoison}[rnd.IntN(2)]))
		case 5:
			_, err := f.Cancel(f.ctx, e.Key, "")
			require.NoError(f, err)
		}
		all = append(all, f.get(e.Key))
		if rnd.IntN(3) == 0 {
			f.clock.Advance(time.Second)
		}
	}
	slices.SortFunc(all, func(a, b eval.Evaluation) int {
		if c := b.CreatedAt.Compare(a.CreatedAt); c != 0 {
			return c
		}
		return strings.Compare(string(b.ID), string(a.ID))
	})
	return all
}

// fits is what a query means, said plainly.
func fits(q eval.Query, e eval.Evaluation) bool {
	switch {
	case len(q.Status) > 0 && !slices.Contains(q.Status, e.Status),
		len(q.Verdict) > 0 && !slices.Contains(q.Verdict, e.Verdict),
		q.Language != "" && q.Language != e.Spec.Language,
		q.Tag != "" && !slices.Contains(e.Spec.Tags, q.Tag),
		q.Batch != "" && q.Batch != e.BatchID,
		!q.Since.IsZero() && e.CreatedAt.Before(q.Since),
		!q.Until.IsZero() && !e.CreatedAt.Before(q.Until):
		return false
	}
	return true
}

func testPages(t *testing.T, open OpenStore) {
	each(t, open, map[string]func(*fixture){
		"every filter, in pages of any size": func(f *fixture) {
			all := f.sample(60)
			f.create(func(e *eval.Evaluation) { e.Project = "other" })
			middle := all[len(all)/2].CreatedAt
			for i, q := range []eval.Query{
				{}, {Status: []eval.Status{eval.Queued}}, {Status: []eval.Status{eval.Completed, eval.Failed}},
				{Status: []eval.Status{"unheard of"}}, {Verdict: []eval.Verdict{eval.TimeLimit}},
				{Verdict: []eval.Verdict{eval.TimeLimit, eval.Accepted}}, {Language: "go"}, {Language: "cobol"}, {Tag: "a"}, {Tag: "it's"},
				{Tag: "%"}, {Batch: "one"}, {Since: middle}, {Until: middle}, {Since: middle, Until: middle},
				{Since: middle.Add(time.Nanosecond)}, {Until: middle.Add(time.Nanosecond)}, {Since: middle.In(time.FixedZone("", 3600))},
				{Status: []eval.Status{eval.Completed}, Verdict: []eval.Verdict{eval.Accepted}, Language: "python", Tag: "b", Since: all[len(all)-1].CreatedAt},
				{Status: []eval.Status{eval.Failed}, Tag: "a", Batch: "two"},
			} {
				var want []eval.ID
				for _, e := range all {
					if fits(q, e) {
						want = append(want, e.ID)
					}
				}
				for _, limit := range []int{1, 7, 0, 500} {
					q.Project, q.Limit, q.Cursor = eval.DefaultProject, limit, ""
					require.Equal(f, want, f.walk(q), "query %d, limit %d", i, limit)
				}
			}
		},
		"an evaluation keeps its place while the list grows": func(f *fixture) {
			var want []eval.ID
			for range 6 {
				want = append([]eval.ID{f.create().ID}, want...)
			}
			q := eval.Query{Project: eval.DefaultProject, Limit: 3}
			page, err := f.List(f.ctx, q)
			require.NoError(f, err)
			f.clock.Advance(time.Second)
			f.create()
			q.Cursor = page.Next
			rest, err := f.List(f.ctx, q)
			require.NoError(f, err)
			var got []eval.ID
			for _, e := range append(page.Evaluations, rest.Evaluations...) {
				got = append(got, e.ID)
			}
			require.Equal(f, want, got)
		},
		"a cursor that the store did not make is invalid": func(f *fixture) {
			f.create()
			f.create()
			page, err := f.List(f.ctx, eval.Query{Project: eval.DefaultProject, Limit: 1})
			require.NoError(f, err)
			for _, cursor := range []string{"x", "!!!", "AAAA", page.Next + "A", page.Next[1:], "' OR 1=1 --", "\x00"} {
				_, err := f.List(f.ctx, eval.Query{Project: eval.DefaultProject, Cursor: cursor})
				kind(f, eval.KindInvalid, err)
				_, err = f.ListDeadLetters(f.ctx, eval.DeadLetterQuery{Project: eval.DefaultProject, Cursor: cursor})
				kind(f, eval.KindInvalid, err)
			}
			_, err = f.ListDeadLetters(f.ctx, eval.DeadLetterQuery{Project: eval.DefaultProject, Cursor: page.Next})
			kind(f, eval.KindInvalid, err)
		},
		"a limit out of range is invalid": func(f *fixture) {
			for _, limit := range []int{-1, 501} {
				_, err := f.List(f.ctx, eval.Query{Project: eval.DefaultProject, Limit: limit})
				kind(f, eval.KindInvalid, err)
				_, err = f.ListDeadLetters(f.ctx, eval.DeadLetterQuery{Project: eval.DefaultProject, Limit: limit})
				kind(f, eval.KindInvalid, err)
			}
		},
		"a filter with NUL is invalid": func(f *fixture) {
			_, err := f.List(f.ctx, eval.Query{Project: eval.DefaultProject, Tag: "a\x00"})
			kind(f, eval.KindInvalid, err)
		},
		"a project with nothing has an empty list": func(f *fixture) {
			page, err := f.List(f.ctx, eval.Query{Project: "nothing"})
			require.NoError(f, err)
			require.Empty(f, page.Evaluations)
			require.Empty(f, page.Next)
		},
	})
}

// walk returns the ids of all pages.
func (f *fixture) walk(q eval.Query) (found []eval.ID) {
	f.Helper()
	for range 1000 {
		page, err := f.List(f.ctx, q)
		require.NoError(f, err)
		if q.Limit > 0 {
			require.LessOrEqual(f, len(page.Evaluations), q.Limit)
		}
		for _, e := range page.Evaluations {
			found = append(found, e.ID)
		}
		if q.Cursor = page.Next; q.Cursor == "" {
			return found
		}
	}
	require.Fail(f, "the pages do not end")
	return nil
}

func testDeadLetters(t *testing.T, open OpenStore) {
	list := func(f *fixture, q eval.DeadLetterQuery) (found []eval.ID) {
		f.Helper()
		q.Project = eval.DefaultProject
		for {
			page, err := f.ListDeadLetters(f.ctx, q)
			require.NoError(f, err)
			for _, d := range page.DeadLetters {
				found = append(found, d.ID)
			}
			if q.Cursor = page.Next; q.Cursor == "" {
				return found
			}
		}
	}
	each(t, open, map[string]func(*fixture){
		"they are listed newest first, by kind and language": func(f *fixture) {
			var all []eval.ID
			byKind := map[eval.Kind][]eval.ID{}
			for i := range 7 {
				k := []eval.Kind{eval.KindInvalid, eval.KindPoison}[i%2]
				e := f.failed(k, func(e *eval.Evaluation) { e.Spec.Language = fmt.Sprint("language", i%3) })
				all = append([]eval.ID{e.ID}, all...)
				byKind[k] = append([]eval.ID{e.ID}, byKind[k]...)
				if i%2 == 0 {
					f.clock.Advance(time.Second)
				}
			}
			f.failed(eval.KindInvalid, func(e *eval.Evaluation) { e.Project = "other" })
			for _, limit := range []int{1, 2, 7, 0} {
				require.Equal(f, all, list(f, eval.DeadLetterQuery{Limit: limit}), limit)
				require.Equal(f, byKind[eval.KindPoison], list(f, eval.DeadLetterQuery{Limit: limit, Kind: []eval.Kind{eval.KindPoison}}), limit)
				require.Equal(f, all, list(f, eval.DeadLetterQuery{Limit: limit, Kind: []eval.Kind{eval.KindPoison, eval.KindInvalid}}), limit)
			}
			require.Equal(f, []eval.ID{all[2], all[5]}, list(f, eval.DeadLetterQuery{Language: "language1"}))
			require.Empty(f, list(f, eval.DeadLetterQuery{Kind: []eval.Kind{eval.KindSandbox}}))
			stats, err := f.Stats(f.ctx, eval.DefaultProject)
			require.NoError(f, err)
			require.EqualValues(f, 7, stats.DeadLetters)
			require.Equal(f, map[eval.Kind]int64{eval.KindInvalid: 4, eval.KindPoison: 3}, stats.DeadLettersByKind)
			backlog, err := f.Backlog(f.ctx)
			require.NoError(f, err)
			require.Equal(f, map[eval.Kind]int64{eval.KindInvalid: 5, eval.KindPoison: 3}, backlog.DeadLetters, "over all projects")
		},
		"they are selected by id, tag, batch, client and time": func(f *fixture) {
			var all []eval.Evaluation
			for i := range 4 {
				all = append(all, f.failed(eval.KindInvalid, func(e *eval.Evaluation) {
					e.Spec.Tags = []string{"all", fmt.Sprint("tag", i%2)}
					e.BatchID, e.Client = fmt.Sprint("batch", i%2), fmt.Sprint("client", i/2)
				}))
				f.clock.Advance(time.Second)
			}
			f.create(func(e *eval.Evaluation) { e.Spec.Tags = []string{"all"} }) // not a dead letter
			only := func(q eval.DeadLetterQuery, want ...int) {
				f.Helper()
				var ids []eval.ID
				for _, i := range want {
					ids = append(ids, all[i].ID)
				}
				q.Limit = 1
				require.Equal(f, ids, list(f, q), "%+v", q)
			}
			only(eval.DeadLetterQuery{Tag: "all"}, 3, 2, 1, 0)
			only(eval.DeadLetterQuery{Tag: "tag1"}, 3, 1)
			only(eval.DeadLetterQuery{Tag: "tag1", Client: "client0"}, 1)
			only(eval.DeadLetterQuery{Batch: "batch0"}, 2, 0)
			only(eval.DeadLetterQuery{Client: "client1"}, 3, 2)
			only(eval.DeadLetterQuery{IDs: []eval.ID{all[0].ID, all[2].ID, "nobody"}}, 2, 0)
			only(eval.DeadLetterQuery{IDs: []eval.ID{all[0].ID}, Batch: "batch1"})
			only(eval.DeadLetterQuery{Since: *all[1].FinishedAt, Until: *all[3].FinishedAt}, 2, 1)
			only(eval.DeadLetterQuery{Until: all[0].FinishedAt.Add(time.Nanosecond)}, 0)
			only(eval.DeadLetterQuery{Since: all[3].FinishedAt.Add(time.Nanosecond)})
			for _, q := range []eval.DeadLetterQuery{
				{IDs: make([]eval.ID, eval.MaxPage+1)}, {Tag: "\x00"}, {Kind: []eval.Kind{"\x00"}}, {IDs: []eval.ID{"\x00"}},
			} {
				_, err := f.ListDeadLetters(f.ctx, q)
				kind(f, eval.KindInvalid, err)
			}
		},
		"an entry says what failed": func(f *fixture) {
			e := f.failed(eval.KindInvalid, func(e *eval.Evaluation) {
				e.Spec.Tags, e.BatchID, e.Client, e.Spec.Priority = []string{"t"}, "b", "c", eval.PriorityHigh
			})
			page, err := f.ListDeadLetters(f.ctx, eval.DeadLetterQuery{Project: e.Project})
			require.NoError(f, err)
			same(f, []eval.DeadLetter{{Key: e.Key, Language: "python", Attempts: 1, FailedAt: *e.FinishedAt,
				Tags: []string{"t"}, BatchID: "b", Client: "c", Priority: eval.PriorityHigh, DispatchSeq: 1,
				Failure: eval.Failure{Kind: eval.KindInvalid, Message: "the platform says invalid"}}}, page.DeadLetters)
		},
		"retry runs it again as a new evaluation": func(f *fixture) {
			e := f.failed(eval.KindInvalid, func(e *eval.Evaluation) { e.Spec.Tags = []string{"t"} })
			f.clock.Advance(time.Second)
			id := f.key().ID
			again, err := f.Retry(f.ctx, e.Key, id)
			require.NoError(f, err)
			require.Equal(f, eval.Queued, again.Status)
			require.Equal(f, eval.Key{Project: e.Project, ID: id}, again.Key)
			require.Equal(f, e.ID, again.RetryOf)
			require.Zero(f, again.Attempt)
			same(f, e.Spec, again.Spec)
			same(f, again, f.get(again.Key))
			require.Empty(f, list(f, eval.DeadLetterQuery{}))
			same(f, e, f.get(e.Key))
			_, l := f.claim(again.Key)
			require.Equal(f, eval.Completed, f.finish(l, accepted("")).Status)
			require.Len(f, f.walk(eval.Query{Project: e.Project, Tag: "t"}), 2)
		},
		"retry again is the same retry": func(f *fixture) {
			e := f.failed(eval.KindInvalid)
			first, err := f.Retry(f.ctx, e.Key, f.key().ID)
			require.NoError(f, err)
			again, err := f.Retry(f.ctx, e.Key, f.key().ID)
			require.NoError(f, err)
			same(f, first, again)
			_, l := f.claim(first.Key)
			done := f.finish(l, platformFailure(eval.KindInvalid))
			again, err = f.Retry(f.ctx, e.Key, f.key().ID)
			require.NoError(f, err)
			same(f, done, again, "as it is now")
			require.Equal(f, []eval.ID{first.ID}, list(f, eval.DeadLetterQuery{}), "and the retry is a dead letter of its own")
			require.Len(f, f.walk(eval.Query{Project: e.Project}), 2)

			third, err := f.Retry(f.ctx, first.Key, f.key().ID)
			require.NoError(f, err)
			require.Equal(f, first.ID, third.RetryOf)
			require.Empty(f, list(f, eval.DeadLetterQuery{}))
		},
		"retry refuses what has not failed": func(f *fixture) {
			e := f.create()
			_, err := f.Retry(f.ctx, e.Key, f.key().ID)
			require.Equal(f, eval.Queued, kind(f, eval.KindConflict, err).Status)
			for _, key := range strangers(e.Key) {
				_, err := f.Retry(f.ctx, key, f.key().ID)
				kind(f, eval.KindNotFound, err)
			}
		},
		"retry with an id that exists changes nothing": func(f *fixture) {
			e, other := f.failed(eval.KindInvalid), f.create()
			_, err := f.Retry(f.ctx, e.Key, other.ID)
			kind(f, eval.KindConflict, err)
			require.Equal(f, []eval.ID{e.ID}, list(f, eval.DeadLetterQuery{}))
			same(f, other, f.get(other.Key))
		},
		"delete takes it from the list, and the evaluation stays": func(f *fixture) {
			e := f.failed(eval.KindInvalid)
			for _, key := range strangers(e.Key) {
				kind(f, eval.KindNotFound, f.DeleteDeadLetter(f.ctx, key))
			}
			require.NoError(f, f.DeleteDeadLetter(f.ctx, e.Key))
			require.Empty(f, list(f, eval.DeadLetterQuery{}))
			same(f, e, f.get(e.Key))
			kind(f, eval.KindNotFound, f.DeleteDeadLetter(f.ctx, e.Key))
			_, err := f.Retry(f.ctx, e.Key, f.key().ID)
			require.NoError(f, err, "it has still failed")
		},
	})
}
