//go:build linux

package sandbox_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/executor/internal/sandbox"
)

func TestProbe(t *testing.T) {
	eachLevel(t, func(t *testing.T, l level) {
		l.only(t, l.confined, "anything to be probed")
		isolation, err := l.Probe(t.Context())
		require.NoError(t, err)
		states := map[string]sandbox.State{}
		for _, c := range isolation.Controls {
			t.Log(c.Name, c.State, c.Detail)
			require.NotEmpty(t, c.Detail+string(c.State))
			states[c.Name] = c.State
			require.NotEqual(t, sandbox.Absent, c.State, "%s: %s", c.Name, c.Detail)
		}
		if l.guest {
			require.Equal(t, sandbox.Enforced, states["own_kernel"])
		}
		require.Equal(t, l.name, isolation.Level)
		want := sandbox.Enforced
		if !l.exact {
			want = sandbox.Approximated
		}
		require.Equal(t, want, states["memory_limit"])
		require.Equal(t, sandbox.Enforced, states["network"])
		require.Equal(t, sandbox.Enforced, states["wall_limit"])
	})
}

func BenchmarkProbe(b *testing.B) {
	r := open(b, sandbox.Config{})
	for b.Loop() {
		_, err := r.Probe(b.Context())
		require.NoError(b, err)
	}
}
