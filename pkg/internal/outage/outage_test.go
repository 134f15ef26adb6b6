package outage_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/pkg/internal/outage"
)

func TestAnOutageCostsOneTryASecondAndTwoLines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		gate := outage.NewGate("peer", time.Second, slog.New(slog.NewTextHandler(&log, nil)))
		require.True(t, gate.Allow())
		gate.Report(context.Canceled) // the caller's doing
		require.False(t, gate.Down())
		gate.Report(errors.New("gone"))
		require.True(t, gate.Down())
		tries := 0
		for range 50 { // five seconds
			if gate.Allow() {
				tries++
				gate.Report(errors.New("gone"))
			}
			<-time.After(100 * time.Millisecond)
		}
		require.InDelta(t, 5, tries, 1)
		<-time.After(time.Second)
		require.True(t, gate.Allow())
		require.False(t, gate.Allow(), "one tries for all")
		gate.Report(nil)
		require.True(t, gate.Allow())
		require.True(t, gate.Allow())
		require.Equal(t, 2, strings.Count(log.String(), "\n"), log.String())
	})
}
