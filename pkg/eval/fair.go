package eval

import "time"

// # Whose turn it is
//
// The queue is shallow: at each priority only a window of evaluations waits
// in it ([Rules.Window]); all others wait in the store, in a line. So the
// burst of one client does not stand before everybody else: who comes next is
// chosen when there is room, and fairly.
//
// A queued evaluation is in one of three states, told by two of its fields:
//
//	NextDispatchAt  DispatchedAt
//	     nil            nil       it waits in the line
//	     set            nil       it waits for a time: run_at, or its next try
//	     set            set       it is dispatched: it waits in the queue, and
//	                              is looked at again at NextDispatchAt
//
// The line is ordered by [Evaluation.Turn]. Turns are the start tags of
// start-time fair queueing (Goyal, Vin, Cheng: "Start-time Fair Queueing: A
// Scheduling Algorithm for Integrated Services Packet Switching Networks",
// 1996) with every evaluation at a cost of one: who joins the line gets the
// turn after the last one of its client that waits, and no earlier one than
// that which is being served. Clients that all wait then take turns, as they
// do under deficit round robin with a quantum of one (Shreedhar, Varghese:
// "Efficient Fair Queuing Using Deficit Round Robin", 1995), and one that
// comes late stands beside those that are next, neither behind a backlog nor
// before it because it was quiet so far. A column with an index keeps that
// order: the choice costs no more when more wait.
//
// A client is the name of an API key within a project ([Evaluation.Client]).
// Each priority has one line for all projects. One that goes back to the line,
// because its worker vanished or its try failed, keeps its turn: its client
// had to wait for it already, and it goes first. One with a run_at gets its
// turn when that has come.
//
// Who has waited for long is dispatched at a higher priority: see
// [Rules.Dispatch].

// Owner is a client within its project.
type Owner struct{ Project, Client string }

// Flow is what one client has at one priority: its own wait for each other.
type Flow struct {
	Owner
	Priority Priority
}

// Flow is the one that the evaluation belongs to.
func (e Evaluation) Flow() Flow { return Flow{Owner{e.Project, e.Client}, e.Spec.Priority} }

// InLine reports whether the evaluation waits for its turn.
func (e Evaluation) InLine() bool {
	return e.Status == Queued && e.NextDispatchAt == nil
}

// Dispatched reports whether the evaluation waits in the queue.
func (e Evaluation) Dispatched() bool {
	return e.Status == Queued && e.DispatchedAt != nil
}

// Standing is what a store knows of the lines and the queue, in the
// transaction in which evaluations join them. What is missing is zero.
type Standing struct {
	Lines map[Priority]Line
	Last  map[Flow]int64 // the greatest turn of those that wait
	Held  map[Owner]int  // how many run or wait in the queue; asked for under MaxRunning only
}

// Line is how it stands at one priority.
type Line struct {
	Dispatched int   // how many wait in the queue; beyond the window they need not be counted
	Greatest   int64 // turn of those
	Least      int64 // turn of those that wait in the line; 0: none does
}

// Now is the virtual time of the line: the last turn that was served. It
// begins again when nobody waits any more, here or in the queue.
func (l Line) Now() int64 { return max(l.Greatest, l.Least-1) }

// NewStanding returns an empty one.
func NewStanding() Standing {
	return Standing{Lines: map[Priority]Line{}, Last: map[Flow]int64{}, Held: map[Owner]int{}}
}

// Join places evaluations that were accepted, in their order: in the queue
// when there is room and nobody is passed by, else in the line. Those that
// wait for their run_at stay as they are.
func (s Standing) Join(changes []Change, now time.Time, rules Rules) {
	for i := range changes {
		e := &changes[i].Evaluation
		if !e.InLine() {
			continue
		}
		flow := e.Flow()
		line := s.Lines[flow.Priority]
		if !s.open(line, flow, rules) {
			s.Arrive(e)
			continue
		}
		e.Turn = 1 + line.Now()
		e.dispatch(now, rules.FirstLook)
		line.Dispatched++
		line.Greatest = max(line.Greatest, e.Turn)
		s.Lines[flow.Priority] = line
		s.Held[flow.Owner]++
	}
}

// Arrive puts an evaluation at the end of its flow in the line. One that had
// a turn before, which comes back, keeps it.
func (s Standing) Arrive(e *Evaluation) {
	e.NextDispatchAt, e.DispatchedAt = nil, nil
	if e.Turn > 0 {
		return
	}
	flow := e.Flow()
	line := s.Lines[flow.Priority]
	e.Turn = 1 + max(line.Now(), s.Last[flow])
	s.Last[flow] = e.Turn
	if line.Least == 0 {
		line.Least = e.Turn
		s.Lines[flow.Priority] = line
	}
}

// open says whether a newcomer may go straight to the queue. When others wait
// for their turn it has to wait too; unless they are held back by the limit
// of their client, which is so when the queue is half empty although they wait.
func (s Standing) open(line Line, flow Flow, rules Rules) bool {
	window := rules.InQueue(0)
	if line.Dispatched >= window || s.Last[flow] > 0 || rules.MaxRunning > 0 && s.Held[flow.Owner] >= rules.MaxRunning {
		return false
	}
	return line.Least == 0 || rules.MaxRunning > 0 && line.Dispatched <= window/2
}

// dispatch marks the evaluation as waiting in the queue, to be looked at
// again after some time.
func (e *Evaluation) dispatch(now time.Time, again time.Duration) {
	e.DispatchedAt, e.NextDispatchAt = &now, ptr(StoreTime(now.Add(again)))
}

// InQueue is how many of one priority may wait in the queue: what was asked
// for, or the rule when that is 0.
func (r Rules) InQueue(asked int) int {
	switch {
	case asked > 0:
		return asked
	case r.Window > 0:
		return r.Window
	default:
		return DefaultRules().Window
	}
}

// Dispatch hands the evaluation to the queue, now or again, and says how. One
// that is handed out again stays in its part of the queue.
//
// Each AgeAfter that an evaluation has waited when it is dispatched raises it
// by one priority; none becomes critical in this way. So what is less urgent
// is late under a stream of what is more urgent, and not for ever.
func (r Rules) Dispatch(e *Evaluation, now time.Time, again time.Duration) Dispatch {
	reason, since := DispatchTurn, e.DispatchedAt
	e.dispatch(now, again)
	switch {
	case since != nil:
		reason, e.DispatchedAt = DispatchAgain, since
	case e.DispatchSeq > 1:
		reason = DispatchRetry
	}
	d := e.Dispatch()
	d.Reason = reason
	d.Priority = r.aged(e.Spec.Priority, e.DispatchedAt.Sub(e.Due()))
	return d
}

func (r Rules) aged(p Priority, waited time.Duration) Priority {
	for ; r.AgeAfter > 0 && waited >= r.AgeAfter; waited -= r.AgeAfter {
		switch p {
		case PriorityLow:
			p = PriorityDefault
		case PriorityDefault:
			p = PriorityHigh
		default:
			return p
		}
	}
	return p
}
