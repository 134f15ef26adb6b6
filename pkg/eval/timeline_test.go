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
		event(3, 16, eval.EventRequeued, eval.Queued, 1, "w1", "w1 fell silent; it is tried again now, which does not count as a try"),
		event(4, 16.5, eval.EventRunning, eval.Running, 2, "w2", ""),
		event(5, 17, eval.EventRequeued, eval.Queued, 2, "w2", "no slot is free"),
		event(6, 27, eval.EventRunning, eval.Running, 3, "w2", ""),
		event(7, 28, eval.EventRequeued, eval.Queued, 3, "w2", "the executor is away"),
	}
	attempts := []eval.Attempt{
		{Number: 1, Worker: "w1", StartedAt: after(1), FinishedAt: at(16), Outcome: eval.AttemptLost, Failure: &eval.Failure{Kind: eval.KindWorkerLost, Message: "w1 fell silent; it is tried again now, which does not count as a try"}, NextTryAt: at(16)},
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
		"16 requeued: the platform failed: w1 fell silent; it is tried again now, which does not count as a try",
		"16.5 running: worker w2 took it after 0.500 s of waiting; it runs alone, because a worker or an executor was lost while it ran before",
		"17 requeued: the platform failed: no slot is free",
		"27 running: worker w2 took it after 10.0 s of waiting",
		"28 requeued: the platform failed: the executor is away",
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

	events[7] = eval.Event{Seq: 8, At: after(40), Type: eval.EventFailed, Status: eval.Failed, Attempt: 3, Message: "its deadline has passed"}
	failed := e
	failed.Status = eval.Failed
	require.Equal(t, "40 failed: the platform gave up: its deadline has passed; it is a dead letter, until somebody retries it", told(failed.Timeline(events, attempts))[7])
}

func TestWhatDecidedAboutTheNextAttempt(t *testing.T) {
	e, _, attempts := story()
	attempts = append(attempts, eval.Attempt{Number: 4, Outcome: eval.AttemptRunning})
	tried := e.Tried(attempts)
	require.Equal(t, []string{"", eval.PolicyQuotaExceeded, eval.PolicyConservative, ""}, []string{tried[0].Policy, tried[1].Policy, tried[2].Policy, tried[3].Policy})
	require.Equal(t, []int{0, 0, 1, 0}, []int{tried[0].Try, tried[1].Try, tried[2].Try, tried[3].Try})
}

// TestATimelineOfAPartIsAPart: old events may be left out, and attempts may
// have been read a moment later.
func TestATimelineOfAPartIsAPart(t *testing.T) {
	e, events, attempts := story()
	require.Len(t, e.Timeline(events[5:], attempts), 2+2)
	require.Len(t, e.Timeline(events, nil), 7+1)
	require.Len(t, e.Timeline(nil, nil), 1)
}
