package guard_test

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/executor/internal/guard"
	"github.com/crucible-eval/crucible/executor/internal/sandbox"
	"github.com/crucible-eval/crucible/pkg/eval"
)

// host is a machine on which sandboxes are what the test says. It only makes
// ones that cannot run anything: what really happens when a control is lost is
// tested with real ones, in package executor.
type host struct {
	mu     sync.Mutex
	found  sandbox.Isolation
	made   []*fake
	asked  []string // levels
	proofs int
	busy   bool
}

type fake struct {
	sandbox.Runtime
	h      *host
	broken error
	closed bool
}

func (f *fake) Probe(context.Context) (sandbox.Isolation, error) {
	f.h.mu.Lock()
	defer f.h.mu.Unlock()
	f.h.proofs++
	return f.h.found, f.broken
}

func (f *fake) Close() error {
	f.h.mu.Lock()
	defer f.h.mu.Unlock()
	f.closed = true
	return nil
}

// is changes what the machine is like.
func (h *host) is(change func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	change()
}

func (h *host) count() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.proofs
}

func (h *host) closed(i int) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.made[i].closed
}

var strong = sandbox.Isolation{Level: sandbox.LevelNamespaces, Controls: []sandbox.Control{
	{Name: "network", State: sandbox.Enforced}, {Name: "ids", State: sandbox.Approximated},
}}

func start(t *testing.T, h *host, least string) *guard.Guard {
	g, err := guard.New(t.Context(), guard.Options{
		Open: func(_ context.Context, level string) (sandbox.Runtime, error) {
			h.mu.Lock()
			defer h.mu.Unlock()
			f := &fake{h: h}
			h.made, h.asked = append(h.made, f), append(h.asked, level)
			return f, nil
		},
		Least: least, Every: time.Minute, Idle: func() (idle bool) { h.is(func() { idle = !h.busy }); return idle }, Proven: func(eval.Isolation) {},
		Logger: slog.New(slog.DiscardHandler),
	})
	require.NoError(t, err)
	return g
}

func TestAFailedBoxOnlyHasTheSandboxProvenAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &host{found: strong}
		g := start(t, h, "")
		box, err := g.Enter(t.Context())
		require.NoError(t, err)
		g.Doubt(box, errors.New("a box failed"))
		box.Leave()
		again, err := g.Enter(t.Context())
		require.NoError(t, err)
		require.Same(t, box, again)
		require.Equal(t, 2, h.count(), "the second run waited for the proof")
		again.Leave()
		require.NoError(t, g.Close())
		require.True(t, h.closed(0))
	})
}

func TestASandboxThatDoesNotHoldIsReplaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &host{found: strong}
		g := start(t, h, "")
		old, err := g.Enter(t.Context())
		require.NoError(t, err)
		other, err := g.Enter(t.Context())
		require.NoError(t, err)
		h.is(func() { h.made[0].broken = errors.New("no cgroup") })
		g.Doubt(old, errors.New("a box failed"))
		old.Leave()
		fresh, err := g.Enter(t.Context())
		require.NoError(t, err)
		require.NotSame(t, old, fresh)
		require.Equal(t, []string{"", sandbox.LevelNamespaces}, h.asked, "the level that was, not the best of the moment")
		g.Doubt(other, errors.New("from the old one"))
		require.False(t, h.closed(0), "a run is under way there")
		other.Leave()
		synctest.Wait()
		require.True(t, h.closed(0))
		require.Equal(t, 3, h.count())
		fresh.Leave()
		require.NoError(t, g.Close())
	})
}

func TestNothingRunsWeakerThanAtFirst(t *testing.T) {
	for name, found := range map[string]sandbox.Isolation{
		"a lower level": {Level: sandbox.LevelNamespacesRlimit, Controls: strong.Controls},
		"a control that is approximated now": {Level: strong.Level, Controls: []sandbox.Control{
			{Name: "network", State: sandbox.Approximated}, {Name: "ids", State: sandbox.Approximated},
		}},
		"a control that is not tried any more": {Level: strong.Level, Controls: strong.Controls[:1]},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := &host{found: strong}
				g := start(t, h, "")
				h.is(func() { h.found = found })
				box, err := g.Enter(t.Context())
				require.NoError(t, err)
				g.Doubt(box, errors.New("a box failed"))
				_, err = g.Enter(t.Context())
				require.Equal(t, eval.KindUnavailable, eval.KindOf(err), "%v", err)
				e, ok := errors.AsType[*eval.Error](err)
				require.True(t, ok)
				require.Positive(t, e.RetryAfter)
				require.NotEmpty(t, g.Problem())
				require.Equal(t, strong.Level, g.Isolation().Level)
				h.is(func() { h.found = strong })
				time.Sleep(time.Minute)
				require.Empty(t, g.Problem(), "it tries until one holds")
				box.Leave()
				require.NoError(t, g.Close())
				for i := range h.made {
					require.True(t, h.closed(i))
				}
			})
		})
	}
}

func TestAStrongerSandboxIsShown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &host{found: strong}
		g := start(t, h, "")
		h.is(func() {
			h.found = sandbox.Isolation{Level: strong.Level, Controls: []sandbox.Control{
				{Name: "network", State: sandbox.Enforced}, {Name: "ids", State: sandbox.Enforced},
			}}
		})
		time.Sleep(time.Minute)
		synctest.Wait()
		require.Equal(t, eval.ControlEnforced, g.Isolation().Controls[1].State)
		require.NoError(t, g.Close())
	})
}

func TestTheSandboxIsProvenWhileIdleAndLessOftenWhileBusy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &host{found: strong}
		g := start(t, h, "")
		time.Sleep(10*time.Minute + time.Second)
		require.Equal(t, 1+10, h.count())
		h.is(func() { h.busy = true })
		time.Sleep(10 * time.Minute)
		require.Equal(t, 1+10+5, h.count())
		require.NoError(t, g.Close())
	})
}

func TestAWeakSandboxIsRefusedAtTheStart(t *testing.T) {
	h := &host{found: strong}
	_, err := guard.New(t.Context(), guard.Options{
		Open: func(context.Context, string) (sandbox.Runtime, error) {
			h.made = append(h.made, &fake{h: h})
			return h.made[0], nil
		},
		Least:  "gvisor",
		Logger: slog.New(slog.DiscardHandler),
	})
	require.ErrorContains(t, err, "gvisor")
	require.True(t, h.closed(0))
}
