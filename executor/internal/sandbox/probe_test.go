//go:build linux

package sandbox_test

import (
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/executor/internal/sandbox"
	"github.com/crucible-eval/crucible/executor/internal/sandbox/landlock"
)

func TestProbe(t *testing.T) {
	eachLevel(t, func(t *testing.T, l level) {
		isolation, err := l.Probe(t.Context())
		require.NoError(t, err)
		if !l.confined {
			for _, c := range isolation.Controls {
				if c.Name == "host_files" || c.Name == "network" {
					require.Equal(t, sandbox.Absent, c.State, c.Name)
				}
				require.Equal(t, c.State != sandbox.Enforced, c.Remedy != "" || c.Name == "disk_quota" || c.Name == "process_ids", c.Name)
			}
			return
		}
		states := map[string]sandbox.State{}
		for _, c := range isolation.Controls {
			t.Log(c.Name, c.State, c.Detail)
			require.NotEmpty(t, c.Detail+string(c.State))
			states[c.Name] = c.State
			if c.Name == "distinct_ids" && l.shared() {
				require.Equal(t, sandbox.Absent, c.State)
				continue
			}
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

// TestProbeNotices: a sandbox of which something is missing is not offered.
func TestProbeNotices(t *testing.T) {
	for _, name := range []string{sandbox.LevelNamespacesRlimit, sandbox.LevelLandlock} {
		t.Run(name, func(t *testing.T) {
			r := open(t, sandbox.Config{Level: name})
			_, err := r.Probe(t.Context())
			require.NoError(t, err)
			sandbox.Weaken(r)
			isolation, err := r.Probe(t.Context())
			require.ErrorIs(t, err, sandbox.ErrUnsupported)
			require.ErrorContains(t, err, "syscall_filter")
			require.ErrorContains(t, err, name)
			require.NotEmpty(t, isolation.Controls, "what was seen is told all the same")
		})
	}
}

// TestOlderLandlock: what a kernel's Landlock does not do yet, the filter does.
func TestOlderLandlock(t *testing.T) {
	for _, abi := range []int{1, landlock.ABITruncate, landlock.ABIScopes - 1} {
		t.Run(strconv.Itoa(abi), func(t *testing.T) {
			r, err := sandbox.OpenLandlock(sandbox.Config{Logger: quiet(t)}, abi)
			if err != nil {
				skip(t, err.Error())
			}
			defer func() { require.NoError(t, r.Close()) }()
			_, err = r.Probe(t.Context())
			require.NoError(t, err)
			// And what it leaves has to be enough to end a box.
			l := level{Runtime: r, name: sandbox.LevelLandlock}
			require.Equal(t, "daemon started\n", strings.Replace(l.run(t, nil, sandbox.Limits{}, "/payload", "daemon").out, "before\n", "", 1))
			o := l.run(t, nil, sandbox.Limits{Wall: 300 * time.Millisecond, Processes: 40}, "/payload", "forkbomb")
			require.NotEqual(t, sandbox.LimitNone, o.Limit)
		})
	}
}

func BenchmarkProbe(b *testing.B) {
	r := open(b, sandbox.Config{})
	for b.Loop() {
		_, err := r.Probe(b.Context())
		require.NoError(b, err)
	}
}
