package memory

import (
	"cmp"
	"slices"

	"github.com/crucible-eval/crucible/pkg/eval"
)

// turns are records by turn, then id.
type turns []*record

func byTurn(a, b *record) int {
	return cmp.Or(cmp.Compare(a.eval.Turn, b.eval.Turn), cmp.Compare(a.eval.ID, b.eval.ID), cmp.Compare(a.eval.Project, b.eval.Project))
}

func (t turns) least() int64 {
	if len(t) == 0 {
		return 0
	}
	return t[0].eval.Turn
}

func (t turns) greatest() int64 {
	if len(t) == 0 {
		return 0
	}
	return t[len(t)-1].eval.Turn
}

// insert adds r to the list under the key.
func insert[K comparable](lists map[K]turns, key K, r *record) {
	at, _ := slices.BinarySearchFunc(lists[key], r, byTurn)
	lists[key] = slices.Insert(lists[key], at, r)
}

// remove takes r from the list under the key, and the list with its last.
func remove[K comparable](lists map[K]turns, key K, r *record) {
	if at, found := slices.BinarySearchFunc(lists[key], r, byTurn); found {
		lists[key] = slices.Delete(lists[key], at, at+1)
	}
	if len(lists[key]) == 0 {
		delete(lists, key)
	}
}

// lines are the indexes by which the next is chosen; see package eval's fair.go.
type lines struct {
	waiting    map[eval.Priority]turns // for their turn
	flows      map[eval.Flow]turns     // the same, by client
	dispatched map[eval.Priority]turns
	timed      map[eval.Key]*record // queued, with a time to look at them: dispatched ones too
	held       map[eval.Owner]int   // run, or are dispatched
}

func newLines() lines {
	return lines{map[eval.Priority]turns{}, map[eval.Flow]turns{}, map[eval.Priority]turns{}, map[eval.Key]*record{}, map[eval.Owner]int{}}
}

// add takes up what has become of an evaluation, remove what it was before.
func (l lines) add(r *record) {
	e := r.eval
	if e.Status == eval.Queued && e.NextDispatchAt != nil {
		l.timed[e.Key] = r
	}
	switch flow := e.Flow(); {
	case e.InLine():
		insert(l.waiting, flow.Priority, r)
		insert(l.flows, flow, r)
	case e.Dispatched():
		insert(l.dispatched, flow.Priority, r)
		l.held[flow.Owner]++
	case e.Status == eval.Running:
		l.held[flow.Owner]++
	}
}

func (l lines) remove(r *record) {
	e := r.eval
	flow := e.Flow()
	delete(l.timed, e.Key)
	switch {
	case e.InLine():
		remove(l.waiting, flow.Priority, r)
		remove(l.flows, flow, r)
		return
	case e.Dispatched():
		remove(l.dispatched, flow.Priority, r)
	case e.Status != eval.Running:
		return
	}
	if l.held[flow.Owner]--; l.held[flow.Owner] <= 0 {
		delete(l.held, flow.Owner)
	}
}

// standing is what those who join find.
func (l lines) standing() eval.Standing {
	s := eval.NewStanding()
	for _, p := range eval.Priorities() {
		s.Lines[p] = eval.Line{Dispatched: len(l.dispatched[p]), Greatest: l.dispatched[p].greatest(), Least: l.waiting[p].least()}
	}
	for flow, waiting := range l.flows {
		s.Last[flow] = waiting.greatest()
	}
	for owner, n := range l.held {
		s.Held[owner] = n
	}
	return s
}

// next returns at most room of those whose turn it is and whom the limit of
// their client does not hold back. held counts what that client has, and more
// with each that is returned.
func (l lines) next(p eval.Priority, room, maxRunning int, held map[eval.Owner]int) turns {
	if room <= 0 {
		return nil
	}
	if maxRunning <= 0 {
		return slices.Clone(l.waiting[p][:min(room, len(l.waiting[p]))])
	}
	var heads turns
	for flow, waiting := range l.flows {
		if flow.Priority == p {
			heads = append(heads, waiting[:max(0, min(room, len(waiting), maxRunning-held[flow.Owner]))]...)
		}
	}
	slices.SortFunc(heads, byTurn)
	heads = heads[:min(room, len(heads))]
	for _, r := range heads {
		held[r.eval.Flow().Owner]++
	}
	return heads
}
