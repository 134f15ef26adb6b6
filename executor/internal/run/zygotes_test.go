package run

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/executor/internal/lang"
	"github.com/crucible-eval/crucible/executor/internal/sandbox"
)

// hatchery makes zygotes that do nothing, and counts those that live.
type hatchery struct {
	sandbox.Runtime
	mu     sync.Mutex
	broken bool
	made   int
	alive  int
}

func (h *hatchery) CanWarm() bool { return true }
func (h *hatchery) CanFork() bool { return true }

func (h *hatchery) NewZygote(context.Context, sandbox.ZygoteSpec) (sandbox.Zygote, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.made++; h.broken {
		return nil, errors.New("broken")
	}
	h.alive++
	return &egg{h: h}, nil
}

func (h *hatchery) counts() (made, alive int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.made, h.alive
}

type egg struct {
	h      *hatchery
	closed bool
}

func (e *egg) Alive() bool { return !e.closed }
func (e *egg) Close()      { e.closed = true; e.h.mu.Lock(); e.h.alive--; e.h.mu.Unlock() }

func breedOf(client string) breed {
	return breed{&lang.Toolchain{Definition: &lang.Definition{Run: []string{"python"}, Warm: &lang.Warm{}}}, 0, client}
}

func TestZygotesAreForClientsThatComeAgainAndServeTheirTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &hatchery{}
		z := newZygotes(h)
		defer z.close()
		b := breedOf("one")
		require.False(t, z.ask(b))
		synctest.Wait()
		made, _ := h.counts()
		require.Zero(t, made, "who comes once needs none")
		require.False(t, z.ask(b))
		synctest.Wait()
		require.True(t, z.ask(b))
		first := z.take(b)
		require.NotNil(t, first)
		for range zygoteCopies {
			require.NotNil(t, z.take(b))
		}
		synctest.Wait()
		require.NotSame(t, first, z.take(b), "renewed")
		made, alive := h.counts()
		require.Equal(t, 2, made)
		require.Equal(t, 1, alive)
		time.Sleep(zygoteAge)
		synctest.Wait()
		_, alive = h.counts()
		require.Zero(t, alive, "its client did not come")
		require.Nil(t, z.take(b))
	})
}

func TestZygotesAreFew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &hatchery{}
		z := newZygotes(h)
		for i := range 2 * zygotesAtMost {
			b := breedOf(fmt.Sprint(i))
			for range zygoteFrom {
				z.ask(b)
			}
			synctest.Wait()
		}
		_, alive := h.counts()
		require.Equal(t, zygotesAtMost, alive)
		z.close()
		_, alive = h.counts()
		require.Zero(t, alive)
		require.False(t, z.ask(breedOf("late")))
	})
}

func TestAZygoteThatCannotStartIsNotTriedAtOnceAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &hatchery{broken: true}
		z := newZygotes(h)
		defer z.close()
		b := breedOf("one")
		for range 10 {
			require.False(t, z.ask(b))
			synctest.Wait()
		}
		made, _ := h.counts()
		require.Equal(t, 1, made)
		time.Sleep(zygotePause)
		z.ask(b)
		synctest.Wait()
		made, _ = h.counts()
		require.Equal(t, 2, made)
	})
}
