package eval_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/pkg/eval"
)

func pendingCallback(now time.Time) eval.Callback {
	return eval.Callback{Key: eval.Key{Project: "p", ID: "e"}, Status: eval.CallbackPending, MaxTries: eval.CallbackTries(), NextAt: &now, CreatedAt: now}
}

func TestACallbackIsTriedForAboutADay(t *testing.T) {
	began := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for name, want := range map[string]struct{ rnd, least, most float64 }{
		"without jitter": {0, 22, 23}, "with the most jitter": {0.999, 28, 29},
	} {
		now, c, tries := began, pendingCallback(began), 0
		for c.Status == eval.CallbackPending {
			tries++
			now = *c.NextAt
			held, ok := c.Take("d", time.Minute, now)
			require.True(t, ok)
			var err error
			c, err = held.Report(held.Tries, eval.Delivery{Reason: eval.CallbackConnect}, now, want.rnd)
			require.NoError(t, err)
		}
		require.Equal(t, eval.CallbackDead, c.Status, name)
		require.Equal(t, 10, tries, name)
		hours := now.Sub(began).Hours()
		require.True(t, hours >= want.least && hours <= want.most, "%s: %v hours", name, hours)
	}
}

func TestAReceiverMaySayWhenToComeBack(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for after, want := range map[time.Duration]time.Duration{
		0: 5 * time.Second, time.Second: 5 * time.Second, time.Hour: time.Hour, 1000 * time.Hour: eval.MaxCallbackDelay,
	} {
		held, _ := pendingCallback(now).Take("d", time.Minute, now)
		c, err := held.Report(1, eval.Delivery{Reason: eval.CallbackBroken, HTTPStatus: 503, RetryAfter: after}, now, 0)
		require.NoError(t, err)
		require.Equal(t, want, c.NextAt.Sub(now), "Retry-After %v", after)
	}
}

func TestSomeReasonsAreFinal(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for reason, want := range map[eval.CallbackReason]eval.CallbackStatus{
		"": eval.CallbackDelivered, eval.CallbackGone: eval.CallbackDead, eval.CallbackRefused: eval.CallbackDead,
		eval.CallbackForgotten: eval.CallbackDead, eval.CallbackDNS: eval.CallbackPending, eval.CallbackConnect: eval.CallbackPending,
		eval.CallbackTLS: eval.CallbackPending, eval.CallbackTimeout: eval.CallbackPending, eval.CallbackRedirect: eval.CallbackPending,
		eval.CallbackRejected: eval.CallbackPending, eval.CallbackBroken: eval.CallbackPending,
	} {
		held, _ := pendingCallback(now).Take("d", time.Minute, now)
		c, err := held.Report(1, eval.Delivery{Reason: reason}, now, 0)
		require.NoError(t, err)
		require.Equal(t, want, c.Status, reason)
	}
}
