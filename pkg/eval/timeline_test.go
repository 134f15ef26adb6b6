package eval_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/pkg/eval"
)

// after is a time on the clock of these tests.
func after(seconds float64) time.Time {
	return start.Add(time.Duration(seconds * float64(time.Second)))
}

func at(seconds float64) *time.Time { t := after(seconds); return &t }

// story is an evaluation that lost a worker, met a full and a broken
// executor, and waits for its next try.
func story() (eval.Evaluation, []eval.Event, []eval.Attempt) {
	event := func(seq int64, seconds float64, kind eval.EventType, status eval.Status, attempt int, worker, message string) eval.Event {
		return eval.Event{Seq: seq, At: after(seconds), Type: kind, Status: status, Attempt: attempt, Worker: worker, Message: message}
	}
	e := accepted(&testing.T{}, eval.Spec{Priority: eval.PriorityHigh, RetryPolicy: eval.PolicyConservative})
	e.Status, e.Attempt, e.Tries, e.Lost = eval.Queued, 3, 1, 1
	e.ExpiresAt = at(3600)
	events := []eval.Event{
		event(1, 0, eval.EventQueued, eval.Queued, 0, "", ""),
		event(2, 1, eval.EventRunning, eval.Running, 1, "w1", ""),
		event(3, 16, eval.EventRequeued, eval.Queued, 1, "w1", "w1 fell silent"),
		event(4, 16.5, eval.EventRunning, eval.Running, 2, "w2", ""),
		event(5, 17, eval.EventRequeued, eval.Queued, 2, "w2", "no slot is free"),
		event(6, 27, eval.EventRunning, eval.Running, 3, "w2", ""),
		event(7, 28, eval.EventRequeued, eval.Queued, 3, "w2", "the executor is away"),
	}
	attempts := []eval.Attempt{
		{Number: 1, Worker: "w1", StartedAt: after(1), FinishedAt: at(16), Outcome: eval.AttemptLost, Failure: &eval.Failure{Kind: eval.KindUnavailable, Message: "w1 fell silent"}, NextTryAt: at(16)},
		{Number: 2, Worker: "w2", StartedAt: after(16.5), FinishedAt: at(17), Outcome: eval.AttemptRetried, Alone: true, Failure: &eval.Failure{Kind: eval.KindFull, Message: "no slot is free"}, NextTryAt: at(27)},
		{Number: 3, Worker: "w2", StartedAt: after(27), FinishedAt: at(28), Outcome: eval.AttemptRetried, Counted: true, Failure: &eval.Failure{Kind: eval.KindUnavailable, Message: "the executor is away"}, NextTryAt: at(33)},
	}
	return e, events, attempts
}

func told(moments []eval.Moment) (lines []string) {
	for _, m := range moments {
		lines = append(lines, fmt.Sprintf("%g %s: %s", m.At.Sub(start).Seconds(), m.Type, m.Explanation))
	}
	return lines
}

func TestTheTimelineTellsWhatHappenedAndWhatComes(t *testing.T) {
	e, events, attempts := story()
	require.Equal(t, []string{
		"0 queued: accepted with priority high and retry policy conservative",
		"1 running: worker w1 took it after 1.000 s of waiting",
		"16 requeued: the worker was lost: w1 fell silent; not counted as a try; queued again at once",
		"16.5 running: worker w2 took it after 0.500 s of waiting; it runs alone, because a worker or an executor was lost while it ran before",
		"17 requeued: the platform failed: no slot is free; not counted as a try; queued again, for 10.0 s by policy quota_exceeded",
		"27 running: worker w2 took it after 10.0 s of waiting",
		"28 requeued: the platform failed: the executor is away; try 1 of the 3 of policy conservative; queued again, for 5.000 s",
		"33 next_try: attempt 4 may begin",
		"3600 expires: it fails unless it has ended by then",
	}, told(e.Timeline(events, attempts)))
}

func TestTheTimelineOfWhatHasEndedEndsThere(t *testing.T) {
	e, events, attempts := story()
	cancelled := e
	cancelled.Status = eval.Cancelled
	events = append(events, eval.Event{Seq: 8, At: after(30), Type: eval.EventCancelled, Status: eval.Cancelled, Attempt: 3, Message: "enough"})
	moments := cancelled.Timeline(events, attempts)
	require.Equal(t, "30 cancelled: cancelled before it ran: enough", told(moments)[7])
	require.Nil(t, moments[7].Attempt, "the attempt had ended before")
	require.Len(t, moments, 8)

	events[7] = eval.Event{Seq: 8, At: after(28), Type: eval.EventFailed, Status: eval.Failed, Attempt: 3, Message: "the executor is away"}
	events = append(events[:6], events[7])
	attempts[0].Counted, attempts[1].Counted, attempts[2].NextTryAt = true, true, nil
	failed := e
	failed.Status = eval.Failed
	moments = failed.Timeline(events, attempts)
	require.Equal(t, "28 failed: the platform gave up: the executor is away; try 3 of the 3 of policy conservative: all are used up, and it is not tried again; it is a dead letter", told(moments)[6])
}

// TestATimelineOfAPartIsAPart: old events may be left out, and attempts may
// have been read a moment later.
func TestATimelineOfAPartIsAPart(t *testing.T) {
	e, events, attempts := story()
	require.Len(t, e.Timeline(events[5:], attempts), 2+2)
	require.Len(t, e.Timeline(events, nil), 7+1)
	require.Len(t, e.Timeline(nil, nil), 1)
}
