package eval_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/pkg/eval"
)

func FuzzLoadHeader(f *testing.F) {
	f.Add("slots=2, busy=1, waiting=0, memory=8589934592, reserved=268435456, draining")
	f.Add("busy=1,slots=2, colour=red, draining=?0")
	f.Add("slots=-1")
	f.Add("slots=1e308, busy=NaN")
	f.Add("")
	f.Fuzz(func(t *testing.T, text string) {
		l, ok := eval.ParseLoad(text)
		if !ok {
			return
		}
		again, ok := eval.ParseLoad(l.Header())
		if !ok || again != l {
			t.Fatalf("%q is %+v, and that is written %q", text, l, l.Header())
		}
	})
}

func TestLoadHeader(t *testing.T) {
	l := eval.Load{Slots: 2, Busy: 1, Waiting: 3, MemoryBytes: 8 << 30, ReservedBytes: 256 << 20, Draining: true}
	require.Equal(t, "slots=2, busy=1, waiting=3, memory=8589934592, reserved=268435456, draining", l.Header())
	for text, want := range map[string]bool{"slots=1": true, "busy=1": false, "slots=x": false, "slots=-1": false, "": false, "slots=1, new=thing": true} {
		_, ok := eval.ParseLoad(text)
		require.Equal(t, want, ok, text)
	}
}
