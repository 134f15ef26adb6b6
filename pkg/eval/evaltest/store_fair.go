package evaltest

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/pkg/eval"
)

// station plays the queue and one worker, which takes what was dispatched
// first.
type station struct {
	*fixture
	queue  []eval.Dispatch
	window int
}

func newStation(f *fixture, window int) *station {
	s := &station{fixture: f, window: window}
	s.feed() // the store learns the window
	return s
}

// submit accepts n evaluations of a client in one submission, and returns
// their ids.
func (s *station) submit(client string, n int, edit ...func(*eval.Evaluation)) []eval.ID {
	s.Helper()
	var sub eval.Submission
	var all []eval.ID
	for range n {
		e := eval.Evaluation{Key: s.key(), Client: client, Spec: program("1")}
		for _, change := range edit {
			change(&e)
		}
		sub.Evaluations = append(sub.Evaluations, e)
		all = append(all, e.ID)
	}
	created, _, err := s.Create(s.ctx, sub)
	require.NoError(s, err)
	for _, e := range created {
		require.False(s, e.Dispatched() && e.InLine())
		if e.Dispatched() {
			s.queue = append(s.queue, e.Dispatch())
		}
	}
	return all
}

// feed asks who is next, and returns them.
func (s *station) feed() []eval.Dispatch {
	s.Helper()
	due, err := s.Due(s.ctx, eval.DueRequest{Limit: 500, Again: time.Hour, Window: s.window})
	require.NoError(s, err)
	for _, d := range due { // the queue takes nothing twice
		if d.Reason != eval.DispatchAgain || !slices.Contains(ids(s.queue), d.ID) {
			s.queue = append(s.queue, d)
		}
	}
	return due
}

// take claims what is first in the queue.
func (s *station) take() (eval.Evaluation, eval.Lease) {
	s.Helper()
	require.NotEmpty(s, s.queue)
	d := s.queue[0]
	s.queue = s.queue[1:]
	e, err := s.Claim(s.ctx, eval.ClaimRequest{Key: d.Key, Seq: d.Seq, Worker: worker, Lease: time.Hour})
	require.NoError(s, err)
	return e, eval.Lease{Key: d.Key, Attempt: e.Attempt}
}

// serve runs n, one after the other, and feeds after each.
func (s *station) serve(n int) []eval.Evaluation {
	s.Helper()
	var served []eval.Evaluation
	for range n {
		e, l := s.take()
		s.finish(l, accepted("1"))
		served = append(served, e)
		s.feed()
	}
	return served
}

func (s *station) serveAll() (served []eval.Evaluation) {
	s.Helper()
	for s.feed(); len(s.queue) > 0; {
		served = append(served, s.serve(1)...)
	}
	return served
}

func clients(evaluations []eval.Evaluation) map[string]int {
	n := map[string]int{}
	for _, e := range evaluations {
		n[e.Client]++
	}
	return n
}

func idsOf(evaluations []eval.Evaluation, client string) []eval.ID {
	all := []eval.ID{}
	for _, e := range evaluations {
		if e.Client == client {
			all = append(all, e.ID)
		}
	}
	return all
}

func testFairness(t *testing.T, open OpenStore) {
	const window = 4
	at := func(test func(*station)) func(*fixture) {
		return func(f *fixture) { test(newStation(f, window)) }
	}
	low := func(e *eval.Evaluation) { e.Spec.Priority = eval.PriorityLow }
	each(t, open, map[string]func(*fixture){
		"create dispatches what there is room for, the rest waits": at(func(s *station) {
			all := s.submit("a", 10)
			require.Equal(s, all[:window], ids(s.queue))
			for i, id := range all {
				e := s.get(eval.Key{Project: eval.DefaultProject, ID: id})
				require.Equal(s, i < window, e.Dispatched())
				require.Equal(s, i >= window, e.InLine())
				require.EqualValues(s, i+1, e.Turn)
			}
			require.Empty(s, s.feed(), "there is no room")
			_, _ = s.take()
			late := s.submit("b", 1)
			require.Len(s, s.queue, window-1, "a newcomer passes nobody by")
			require.Len(s, s.feed(), 1)
			_, _ = s.take()
			require.Equal(s, late, ids(s.feed()), "and is next all the same")
		}),
		"each priority has a window of its own": at(func(s *station) {
			s.submit("a", 10)
			s.submit("a", 10, low)
			require.Len(s, s.queue, 2*window)
			s.window = 2 * window
			more := s.feed()
			require.Len(s, more, 2*window, "a larger window is filled")
			require.Equal(s, eval.PriorityDefault, more[0].Priority, "the urgent first")
			require.Equal(s, eval.PriorityLow, more[len(more)-1].Priority)
			s.window = window
			s.serve(4)
			require.Len(s, s.queue, 4*window-4, "a smaller one is waited for")
		}),
		"limit bounds an answer": at(func(s *station) {
			s.submit("a", 10)
			s.window = 100
			due, err := s.Due(s.ctx, eval.DueRequest{Limit: 2, Again: time.Hour, Window: 100})
			require.NoError(s, err)
			require.Len(s, due, 2)
		}),
		"a burst does not delay another client": at(func(s *station) {
			burst := s.submit("a", 100)
			served := s.serve(30)
			ten := s.submit("b", 10)
			served = append(served, s.serve(2*10+window+1)...)
			require.Equal(s, ten, idsOf(served, "b"), "in their order, in turn with the burst")
			served = append(served, s.serveAll()...)
			require.Equal(s, burst, idsOf(served, "a"), "in their order")
		}),
		"clients that all wait get the same": at(func(s *station) {
			for range 20 { // many small ones weigh what one large one does
				s.submit("a", 10)
			}
			s.submit("b", 200)
			s.submit("c", 100)
			s.serve(window + 50) // a was alone when it came
			got := clients(s.serve(60))
			for _, c := range []string{"a", "b", "c"} {
				require.InDelta(s, 20, got[c], window, "%v", got)
			}
		}),
		"who was quiet has no claim to more": at(func(s *station) {
			s.submit("a", 120)
			s.serve(60)
			s.submit("b", 50)
			s.serve(window)
			got := clients(s.serve(40))
			require.InDelta(s, 20, got["b"], 2, "%v", got)
		}),
		"clients of the same name in two projects are two": at(func(s *station) {
			other := func(e *eval.Evaluation) { e.Project = "other" }
			s.submit("a", 100)
			s.submit("a", 10, other)
			n := 0
			for _, e := range s.serve(window + 2*10 + 1) {
				if e.Project == "other" {
					n++
				}
			}
			require.Equal(s, 10, n)
		}),
		"an empty line begins again": at(func(s *station) {
			s.submit("a", 20)
			s.serveAll()
			e := s.create(func(e *eval.Evaluation) { e.Client = "a" })
			require.EqualValues(s, 1, e.Turn)
			require.True(s, e.Dispatched())
		}),
		"a try that failed goes first when its time has come": at(func(s *station) {
			s.submit("a", 1)
			s.submit("b", 20)
			_, l := s.take()
			failed := s.finish(l, platformFailure(eval.KindUnavailable))
			require.False(s, failed.InLine())
			s.feed()
			s.clock.Advance(time.Minute)
			s.take()
			due := s.feed() // after those that are handed out again
			last := due[len(due)-1]
			require.Equal(s, failed.ID, last.ID)
			require.Equal(s, 2, last.Seq)
			require.Equal(s, eval.DispatchRetry, last.Reason)
		}),
		"what a lost worker held goes first": at(func(s *station) {
			s.submit("b", 20)
			lost, _ := s.take()
			s.clock.Advance(time.Hour)
			_, err := s.Reap(s.ctx, 10)
			require.NoError(s, err)
			s.queue = nil
			due := s.feed()
			require.Contains(s, ids(due), lost.ID)
			i := slices.Index(ids(due), lost.ID)
			require.True(s, due[i].Alone)
		}),
		"run_at gives no place before its time": at(func(s *station) {
			soon := s.clock.Now().Add(time.Minute)
			early := s.submit("a", 60, func(e *eval.Evaluation) { e.Spec.RunAt = &soon })
			require.Empty(s, s.queue)
			require.Zero(s, s.get(eval.Key{Project: eval.DefaultProject, ID: early[0]}).Turn)
			s.submit("b", 100)
			s.serve(40)
			s.clock.Advance(time.Minute)
			s.feed()
			s.serve(window)
			got := clients(s.serve(40))
			require.InDelta(s, 20, got["a"], 2, "%v", got)
		}),
		"what has waited long is dispatched as more urgent, and never as critical": at(func(s *station) {
			age := eval.DefaultRules().AgeAfter
			for _, p := range eval.Priorities() {
				s.submit("a", 3*window, func(e *eval.Evaluation) { e.Spec.Priority = p })
			}
			next := func() map[eval.Priority]int {
				s.clock.Advance(age)
				for len(s.queue) > 0 {
					_, l := s.take()
					s.finish(l, accepted("1"))
				}
				n := map[eval.Priority]int{}
				for _, d := range s.feed() {
					n[d.Priority]++
				}
				return n
			}
			require.Equal(s, map[eval.Priority]int{eval.PriorityCritical: window, eval.PriorityHigh: 2 * window, eval.PriorityDefault: window}, next())
			s.clock.Advance(age)
			again := slices.Clone(s.queue)
			for i := range again {
				again[i].Reason = eval.DispatchAgain
			}
			_, err := s.Rewind(s.ctx)
			require.NoError(s, err)
			require.ElementsMatch(s, again, s.feed(), "what is in the queue stays where it is there")
			require.Equal(s, map[eval.Priority]int{eval.PriorityCritical: window, eval.PriorityHigh: 3 * window}, next())
		}),
		"what is low ends under an endless stream of what is urgent": at(func(s *station) {
			low := s.submit("a", 20, low)
			var pattern []eval.Priority // as asynq takes: by weight
			for i, weight := range []int{6, 4, 3, 1} {
				pattern = append(pattern, slices.Repeat(eval.Priorities()[i:i+1], weight)...)
			}
			left, raised, turn := len(low), 0, 0
			for ; left > 0; turn++ {
				require.Less(s, turn, 14*len(low), "a fourteenth of the pace is the least")
				for _, p := range eval.Priorities()[:3] {
					s.submit("b", 1, func(e *eval.Evaluation) { e.Spec.Priority = p })
				}
				s.feed()
				i := max(0, slices.IndexFunc(s.queue, func(d eval.Dispatch) bool { return d.Priority == pattern[turn%len(pattern)] }))
				d := s.queue[i]
				s.queue = slices.Insert(slices.Delete(s.queue, i, i+1), 0, d)
				e, l := s.take()
				s.finish(l, accepted("1"))
				if e.Spec.Priority == eval.PriorityLow {
					left--
					if d.Priority != eval.PriorityLow {
						raised++
					}
				}
				s.clock.Advance(time.Second)
			}
			require.Positive(s, raised, "age has raised some")
			s.Logf("20 of low priority ended in %d steps under an endless stream at each of the others; %d of them were raised", turn, raised)
		}),
		"several reconcilers feed no more than the window": func(f *fixture) {
			s := newStation(f, 8)
			s.submit("a", 100)
			for range 5 {
				for range 5 {
					_, l := s.take()
					s.finish(l, accepted("1"))
				}
				var mu sync.Mutex
				seen := map[eval.ID]bool{}
				together(4, func(int) {
					due, err := f.Due(f.ctx, eval.DueRequest{Limit: 50, Again: time.Hour, Window: 8})
					assert.NoError(f, err)
					mu.Lock()
					defer mu.Unlock()
					for _, d := range due {
						assert.False(f, seen[d.ID], "handed out twice")
						seen[d.ID] = true
					}
					s.queue = append(s.queue, due...)
				})
				require.Len(f, s.queue, 8)
			}
		},
		"a client that submits over many connections gets no more": func(f *fixture) {
			s := newStation(f, window)
			s.submit("fill", window+1)
			const many, each = 8, 10
			keys := make([]eval.Key, many*each)
			for i := range keys {
				keys[i] = f.key()
			}
			together(many, func(i int) {
				for j := range each {
					_, _, err := f.Create(f.ctx, eval.Submission{Evaluations: []eval.Evaluation{{Key: keys[i*each+j], Client: "a", Spec: program("1")}}})
					assert.NoError(f, err)
				}
			})
			s.submit("b", 20)
			s.serve(window + 1)
			got := clients(s.serve(30))
			require.InDelta(f, 15, got["b"], 3, "%v", got)
		},
	})
}

// TestMaxRunning checks that a store passes over clients that are at their
// limit. open makes an empty store with those rules.
func TestMaxRunning(t *testing.T, open func(t *testing.T, now func() time.Time, rules eval.Rules) eval.Store) {
	rules := eval.DefaultRules()
	rules.MaxRunning = 3
	opened := func(t *testing.T, now func() time.Time) eval.Store { return open(t, now, rules) }
	each(t, opened, map[string]func(*fixture){
		"a client at its limit waits, and nobody with it": func(f *fixture) {
			s := newStation(f, 4)
			s.submit("a", 50)
			require.Len(f, s.queue, 3)
			_, first := s.take()
			s.take()
			s.take()
			require.Empty(f, s.feed(), "three of a run")
			b := s.submit("b", 1)
			require.Equal(f, b, ids(s.queue), "at once: nobody is passed by")
			s.submit("b", 5)
			s.submit("c", 2)
			s.feed()
			require.Len(f, s.queue, 4, "the window is full")
			f.finish(first, accepted("1"))
			s.take()
			require.Len(f, s.feed(), 1, "one of a, whose turn it is")
			require.Equal(f, "a", f.get(s.queue[3].Key).Client)
		},
		"the limit holds over priorities": func(f *fixture) {
			s := newStation(f, 10)
			for _, p := range eval.Priorities() {
				s.submit("a", 2, func(e *eval.Evaluation) { e.Spec.Priority = p })
			}
			require.Len(f, s.queue, 3)
			require.Empty(f, s.feed())
			_, l := s.take()
			f.finish(l, accepted("1"))
			require.Len(f, s.feed(), 1)
		},
		"everybody gets what the limit allows, in turn": func(f *fixture) {
			s := newStation(f, 7)
			for i := range 12 {
				s.submit(fmt.Sprint("client-", i), 20)
			}
			s.serve(2 * 12)
			got := clients(s.serve(4 * 12))
			for i := range 12 {
				require.InDelta(f, 4, got[fmt.Sprint("client-", i)], 1, "%v", got)
			}
			require.Len(f, s.serveAll(), 14*12)
		},
	})
}
