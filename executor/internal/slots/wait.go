package slots

import (
	"cmp"
	"slices"
	"time"
)

const (
	// guess is how long runs are taken to last before any has ended.
	guess = time.Second
	// Bounds of what a refused client is told.
	soonest = 50 * time.Millisecond
	latest  = time.Minute
)

// wait is when a run that is refused now would probably be let in, if those
// in line are served before it.
func (s *Slots) wait(want Want) time.Duration {
	type end struct {
		in time.Duration
		Want
	}
	now := time.Now()
	var ends []end
	for t := range s.running {
		ends = append(ends, end{s.remaining(t, now), t.Want})
	}
	byTime := func(a, b end) int { return cmp.Compare(a.in, b.in) }
	slices.SortFunc(ends, byTime)
	reserved, at := s.reserved, time.Duration(0)
	fits := func(want Want) bool {
		switch {
		case len(ends) == 0:
			return true
		case len(ends) >= s.total, want.Exclusive, ends[0].Exclusive:
			return false
		}
		return s.memory == 0 || reserved+want.Memory <= s.memory
	}
	// Play the line through, and the run at its end.
	for _, next := range append(slices.Clone(s.line), &ticket{Want: want}) {
		for !fits(next.Want) {
			at, reserved, ends = ends[0].in, reserved-ends[0].Memory, ends[1:]
		}
		reserved += next.Memory
		ends = append(ends, end{at + s.typical, next.Want})
		slices.SortFunc(ends, byTime)
	}
	return min(max(at, soonest), latest)
}

// remaining is how much longer a run is likely to take: to the typical length
// while it is younger, and else as long again as it took so far, which is
// what one expects of times that vary by orders of magnitude. Its limits are
// never exceeded.
func (s *Slots) remaining(t *ticket, now time.Time) time.Duration {
	age := now.Sub(t.since)
	left := s.typical - age
	if left < 0 {
		left = age
	}
	if t.Longest > 0 {
		left = min(left, max(t.Longest-age, 0))
	}
	return left
}
