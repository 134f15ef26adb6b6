package memory_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/pkg/eval/evaltest"
	"github.com/crucible-eval/crucible/pkg/memory"
)

func TestStore(t *testing.T) {
	evaltest.TestStore(t, func(_ *testing.T, now func() time.Time) eval.Store {
		return memory.NewStore(memory.Options{Now: now})
	})
}

func TestMaxRunning(t *testing.T) {
	evaltest.TestMaxRunning(t, func(_ *testing.T, now func() time.Time, rules eval.Rules) eval.Store {
		return memory.NewStore(memory.Options{Now: now, Rules: rules})
	})
}

func TestBlobs(t *testing.T) {
	evaltest.TestBlobs(t, func(*testing.T) eval.Blobs { return memory.NewBlobs(0) })
}

func key(id int) eval.Key {
	return eval.Key{Project: eval.DefaultProject, ID: eval.ID(fmt.Sprintf("%04d", id))}
}

func TestAFullStoreForgetsTheOldestThatEnded(t *testing.T) {
	s := memory.NewStore(memory.Options{MaxEvaluations: 3})
	add := func(id int) error {
		_, _, err := s.Create(t.Context(), eval.Submission{Evaluations: []eval.Evaluation{{Key: key(id)}}})
		return err
	}
	for id := range 3 {
		require.NoError(t, add(id))
	}
	err := add(3)
	require.Equal(t, eval.KindFull, eval.KindOf(err), "nothing has ended")
	require.ErrorContains(t, err, "use a database")
	for id := 1; id < 3; id++ {
		_, err := s.Cancel(t.Context(), key(id), "")
		require.NoError(t, err)
	}
	require.NoError(t, add(3))
	for id, want := range []eval.Kind{"", eval.KindNotFound, "", ""} {
		_, err := s.Get(t.Context(), key(id))
		require.Equal(t, want, eval.KindOf(err), id)
	}
	events, err := s.Feed(t.Context(), eval.DefaultProject, 0, 100)
	require.NoError(t, err)
	require.Len(t, events, 4, "of 0, 2 and 3")
	stats, err := s.Stats(t.Context(), eval.DefaultProject)
	require.NoError(t, err)
	require.EqualValues(t, 2, stats.Statuses[eval.Queued])
	require.EqualValues(t, 1, stats.Statuses[eval.Cancelled])
}

func TestFullBlobsSaySo(t *testing.T) {
	b := memory.NewBlobs(10)
	digest, _, err := b.Put(t.Context(), strings.NewReader("0123456789"))
	require.NoError(t, err)
	_, _, err = b.Put(t.Context(), strings.NewReader("x"))
	require.Equal(t, eval.KindFull, eval.KindOf(err))
	_, _, err = b.Put(t.Context(), strings.NewReader("0123456789"))
	require.NoError(t, err, "what is there needs no room")
	require.NoError(t, b.Delete(t.Context(), digest))
	_, _, err = b.Put(t.Context(), strings.NewReader("x"))
	require.NoError(t, err)
}
