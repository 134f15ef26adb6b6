package run

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/crucible-eval/crucible/executor/internal/lang"
	"github.com/crucible-eval/crucible/executor/internal/sandbox"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// ledger is a sandbox.Runtime that makes nothing and counts what is open.
type ledger struct {
	sandbox.Runtime
	mu   sync.Mutex
	open int
	made int
}

func (l *ledger) add(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open += n; n > 0 {
		l.made++
	}
}

func (l *ledger) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.open
}

type entry struct {
	sandbox.Workspace
	l    *ledger
	once sync.Once
}

func (e *entry) Close() error { e.once.Do(func() { e.l.add(-1) }); return nil }

type boxEntry struct {
	sandbox.Box
	*entry
}

func (e boxEntry) Close() error { return e.entry.Close() }

func (l *ledger) NewWorkspace(context.Context, sandbox.WorkspaceSpec) (sandbox.Workspace, error) {
	l.add(1)
	return &entry{l: l}, nil
}

func (l *ledger) Prepare(context.Context, sandbox.BoxSpec) (sandbox.Box, error) {
	l.add(1)
	return boxEntry{entry: &entry{l: l}}, nil
}

func TestTheShelfIsFilledForWhatIsAskedForAndForgetsTheRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &ledger{}
		s := newShelf(l, 2)
		defer s.close()
		python := kind{lang: &lang.Toolchain{}, disk: 1 << 20, tmp: 1 << 20}
		require.Nil(t, s.take(python), "nothing is ready for the first")
		synctest.Wait()
		require.Zero(t, l.count(), "its run has the machine for itself")
		s.restock(python)
		synctest.Wait()
		require.Equal(t, 2*2, l.count())
		got := s.take(python)
		require.NotNil(t, got)
		time.Sleep(shelfPatience)
		synctest.Wait()
		require.Equal(t, 3*2, l.count(), "its place is filled again, though the run goes on")
		require.NoError(t, got.close())

		for range shelfKinds {
			other := kind{lang: &lang.Toolchain{}, disk: 1, tmp: 1}
			require.Nil(t, s.take(other))
			s.restock(other)
			synctest.Wait()
		}
		require.Equal(t, shelfKinds*2*2, l.count(), "the oldest kind made room")
		time.Sleep(shelfAge + time.Second)
		synctest.Wait()
		require.Zero(t, l.count(), "nobody asked for a while")
		require.Nil(t, s.take(python))
		synctest.Wait()
		s.close()
		require.Zero(t, l.count())
		require.Nil(t, s.take(python))
	})
}
