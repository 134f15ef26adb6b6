package eval_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/pkg/eval"
)

func FuzzCursor(f *testing.F) {
	e := eval.Evaluation{Key: eval.Key{Project: "default", ID: "e1"}, CreatedAt: start}
	f.Add(e.Cursor())
	f.Add("")
	f.Add("ZXZhbHVhdGlvbnMvMS8")
	f.Fuzz(func(t *testing.T, cursor string) {
		_, place, err := eval.Query{Cursor: cursor}.Check()
		if err != nil {
			require.Equal(t, eval.KindInvalid, eval.KindOf(err))
			return
		}
		if cursor == "" {
			require.Nil(t, place)
			return
		}
		made := eval.Evaluation{Key: eval.Key{ID: place.ID}, CreatedAt: place.At}.Cursor()
		require.Equal(t, made, cursor, "only what a store made is taken")
	})
}

func TestACursorIsThePlaceAfterItsEntry(t *testing.T) {
	e := eval.Evaluation{Key: eval.Key{ID: "b"}, CreatedAt: start}
	_, place, err := eval.Query{Cursor: e.Cursor()}.Check()
	require.NoError(t, err)
	require.False(t, place.Before(start, "b"))
	require.False(t, place.Before(start, "c"))
	require.True(t, place.Before(start, "a"))
	require.True(t, place.Before(start.Add(-time.Microsecond), "z"))
	require.False(t, place.Before(start.Add(time.Microsecond), "a"))
}
