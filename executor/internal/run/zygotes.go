package run

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/crucible-eval/crucible/executor/internal/lang"
	"github.com/crucible-eval/crucible/executor/internal/sandbox"
)

const (
	// zygoteCopies is how many copies are made of a zygote before another takes
	// its place: they share its hash seed and the layout of its memory.
	zygoteCopies = 200
	// zygoteAge is how long a zygote is kept for a client that does not come.
	zygoteAge = shelfAge
	// zygotesAtMost is how many are kept; each holds what its interpreter does,
	// 10 to 50 MiB.
	zygotesAtMost = 8
	// zygoteFrom is with which run of a client one is started for it: who comes
	// once does not need it.
	zygoteFrom = 2
	// zygotePause is how long none is started after one could not be.
	zygotePause = 30 * time.Second
)

// breed is what the copies of one zygote are alike in.
type breed struct {
	lang   *lang.Toolchain
	memory int64 // the limit that the interpreter's start depends on, if it does
	client string
}

// zygotes keeps one for each client and language that was asked for lately.
type zygotes struct {
	boxes sandbox.Warmer // nil: there are none

	ctx  context.Context // ends at close
	stop context.CancelFunc
	work sync.WaitGroup

	mu  sync.Mutex
	all []*nest // the one asked for last comes first
}

// nest is where the zygote of a breed lives.
type nest struct {
	breed
	zygote sandbox.Zygote // nil: not yet
	copies int            // made of it
	asked  int
	making bool
	pause  time.Time // none is started before
	gone   bool
	expiry *time.Timer
}

func newZygotes(boxes sandbox.Runtime) *zygotes {
	z := &zygotes{}
	if w, ok := boxes.(sandbox.Warmer); ok && w.CanFork() {
		z.boxes = w
	}
	z.ctx, z.stop = context.WithCancel(context.Background())
	return z
}

// ask notes a run, and tells whether it can have a copy. If not, there will be
// a zygote soon, if the client comes again.
func (z *zygotes) ask(b breed) bool {
	if z.boxes == nil {
		return false
	}
	z.mu.Lock()
	defer z.mu.Unlock()
	if z.ctx.Err() != nil {
		return false
	}
	n := z.nest(b)
	n.expiry.Reset(zygoteAge)
	n.asked++
	z.tend(n)
	return n.alive()
}

// take returns the zygote for one copy, or nil.
func (z *zygotes) take(b breed) sandbox.Zygote {
	z.mu.Lock()
	defer z.mu.Unlock()
	i := z.index(b)
	if i < 0 || !z.all[i].alive() {
		return nil
	}
	n := z.all[i]
	n.copies++
	z.tend(n)
	return n.zygote
}

func (n *nest) alive() bool { return n.zygote != nil && n.zygote.Alive() }

// tend starts a zygote where there is none, or one that has served its time,
// which goes on until the other is there.
func (z *zygotes) tend(n *nest) {
	fresh := n.alive() && n.copies < zygoteCopies
	if fresh || n.making || n.asked < zygoteFrom || time.Now().Before(n.pause) {
		return
	}
	n.making = true
	z.work.Go(func() { z.start(n) })
}

func (z *zygotes) start(n *nest) {
	made, err := z.boxes.NewZygote(z.ctx, sandbox.ZygoteSpec{Warm: n.lang.Interpreter(n.memory), Binds: n.lang.Binds})
	z.mu.Lock()
	old := n.zygote
	switch n.making = false; {
	case err != nil:
		n.pause = time.Now().Add(zygotePause)
		old = nil
	case n.gone:
		old = made
	default:
		n.zygote, n.copies = made, 0
	}
	z.mu.Unlock()
	if old != nil {
		old.Close()
	}
}

func (z *zygotes) index(b breed) int {
	return slices.IndexFunc(z.all, func(n *nest) bool { return n.breed == b })
}

// nest finds or makes the nest of a breed, and clears the one that was not
// asked for the longest when there are too many.
func (z *zygotes) nest(b breed) *nest {
	i := z.index(b)
	var n *nest
	if i >= 0 {
		n = z.all[i]
		z.all = slices.Delete(z.all, i, i+1)
	} else {
		n = &nest{breed: b}
		n.expiry = time.AfterFunc(zygoteAge, func() { z.expire(n) })
		if len(z.all) >= zygotesAtMost {
			z.clear(z.all[len(z.all)-1])
		}
	}
	z.all = slices.Insert(z.all, 0, n)
	return n
}

func (z *zygotes) expire(n *nest) {
	z.mu.Lock()
	defer z.mu.Unlock()
	if !n.gone {
		z.clear(n)
	}
}

// forget clears the nests of a toolchain.
func (z *zygotes) forget(t *lang.Toolchain) {
	z.mu.Lock()
	defer z.mu.Unlock()
	for _, n := range slices.Clone(z.all) {
		if n.lang == t {
			z.clear(n)
		}
	}
}

// clear gives up a nest. Copies that were made go on.
func (z *zygotes) clear(n *nest) {
	n.gone = true
	n.expiry.Stop()
	z.all = slices.DeleteFunc(z.all, func(other *nest) bool { return other == n })
	if n.zygote != nil {
		n.zygote.Close()
	}
}

func (z *zygotes) close() {
	z.mu.Lock()
	z.stop()
	for len(z.all) > 0 {
		z.clear(z.all[0])
	}
	z.mu.Unlock()
	z.work.Wait()
}
