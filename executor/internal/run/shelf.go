package run

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/crucible-eval/crucible/executor/internal/lang"
	"github.com/crucible-eval/crucible/executor/internal/sandbox"
	"github.com/crucible-eval/crucible/pkg/eval"
)

const (
	// shelfRoom is what a prepared work folder has for the program beside its
	// disk limit. Larger programs get one made to measure.
	shelfRoom = 128 << 10
	// shelfKinds is how many kinds of boxes are kept ready; a kind is a
	// language and a disk limit.
	shelfKinds = 4
	// shelfAge is how long a box waits for a program.
	shelfAge = 2 * time.Minute
	// shelfPatience is how long what was taken is not made again while its run
	// is under way. Most runs are over by then, and had the cores for themselves.
	shelfPatience = 50 * time.Millisecond
)

// errNoZygote says that no copy can be made at the moment.
var errNoZygote = fmt.Errorf("%w: there is no zygote", sandbox.ErrPlatform)

// set is a work folder and a box on it, for one run.
type set struct {
	workspace sandbox.Workspace
	box       sandbox.Box
	start     eval.Start // of a run with it
	over      func()     // called when the run is over; may be nil
}

func (s *set) close() error {
	err := errors.Join(s.box.Close(), s.workspace.Close())
	if s.over != nil {
		s.over()
	}
	return err
}

// kind is what sets are alike in.
type kind struct {
	lang *lang.Toolchain
	disk int64 // bytes of the work folder, beside the program's own
	tmp  int64 // bytes of /tmp

	warm   eval.Warm // how the interpreter comes into the box; empty: it is started there
	memory int64     // the limit that the interpreter's start depends on, if it does
	client string    // of whose zygote the interpreter is a copy
}

func (k kind) breed() breed { return breed{k.lang, k.memory, k.client} }

// shelf keeps sets ready, so that making one is not a part of a run. Only
// kinds that were asked for lately are on it. Each set is used once.
type shelf struct {
	boxes   sandbox.Runtime
	zygotes *zygotes
	depth   int // sets of each kind

	ctx  context.Context // ends when the shelf closes
	stop context.CancelFunc
	work sync.WaitGroup

	mu    sync.Mutex
	kinds []*place // the one asked for last comes first
}

// place is where the sets of a kind lie.
type place struct {
	kind
	sets   []*set
	making bool
	gone   bool // no longer on the shelf
	expiry *time.Timer
	late   *time.Timer // restocks while a run goes on
}

// newShelf returns an empty shelf; depth 0 keeps nothing ready.
func newShelf(boxes sandbox.Runtime, depth int) *shelf {
	ctx, stop := context.WithCancel(context.Background())
	return &shelf{boxes: boxes, zygotes: newZygotes(boxes), depth: depth, ctx: ctx, stop: stop}
}

// take returns a set of this kind, or nil when none is ready. Others are made
// in the background after restock, or when the run takes long.
func (s *shelf) take(k kind) *set {
	if s.depth == 0 {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctx.Err() != nil {
		return nil
	}
	p := s.place(k)
	p.expiry.Reset(shelfAge)
	p.late.Reset(shelfPatience)
	if len(p.sets) == 0 {
		return nil
	}
	got := p.sets[0]
	p.sets = p.sets[1:]
	return got
}

// restock has sets of this kind made again, if it still has a place: a run
// with one is over.
func (s *shelf) restock(k kind) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := s.index(k)
	if i < 0 || s.ctx.Err() != nil {
		return
	}
	if p := s.kinds[i]; !p.making && len(p.sets) < s.depth {
		p.making = true
		s.work.Go(func() { s.fill(p) })
	}
}

func (s *shelf) index(k kind) int {
	return slices.IndexFunc(s.kinds, func(p *place) bool { return p.kind == k })
}

// place finds or makes the place of a kind, and clears the one that was not
// asked for the longest when there are too many.
func (s *shelf) place(k kind) *place {
	i := s.index(k)
	var p *place
	if i >= 0 {
		p = s.kinds[i]
		s.kinds = slices.Delete(s.kinds, i, i+1)
	} else {
		p = &place{kind: k}
		p.expiry = time.AfterFunc(shelfAge, func() { s.expire(p) })
		p.late = time.AfterFunc(shelfPatience, func() { s.restock(k) })
		if len(s.kinds) >= shelfKinds {
			s.clear(s.kinds[len(s.kinds)-1])
		}
	}
	s.kinds = slices.Insert(s.kinds, 0, p)
	return p
}

// fill makes sets until the place is full.
func (s *shelf) fill(p *place) {
	for {
		made, err := s.newSet(s.ctx, p.kind, shelfRoom)
		s.mu.Lock()
		full := err != nil || p.gone || s.ctx.Err() != nil
		if !full {
			p.sets = append(p.sets, made)
			made = nil
			full = len(p.sets) >= s.depth
		}
		if full {
			p.making = false
			s.mu.Unlock()
			if made != nil {
				_ = made.close()
			}
			return
		}
		s.mu.Unlock()
	}
}

// newSet makes a work folder with room bytes for the program, and a box on it.
func (s *shelf) newSet(ctx context.Context, k kind, room int64) (*set, error) {
	w, err := s.boxes.NewWorkspace(ctx, sandbox.WorkspaceSpec{Bytes: k.disk + room})
	if err != nil {
		return nil, err
	}
	spec := sandbox.BoxSpec{Workspace: w, Binds: k.lang.Binds, TmpBytes: k.tmp}
	start := eval.StartBox
	switch k.warm {
	case eval.WarmPrestart:
		spec.Warm, start = k.lang.Interpreter(k.memory), eval.StartPrestart
	case eval.WarmFork:
		if spec.Zygote = s.zygotes.take(k.breed()); spec.Zygote == nil {
			return nil, errors.Join(errNoZygote, w.Close())
		}
		start = eval.StartFork
	}
	box, err := s.boxes.Prepare(ctx, spec)
	if err != nil {
		return nil, errors.Join(err, w.Close())
	}
	return &set{workspace: w, box: box, start: start}, nil
}

func (s *shelf) expire(p *place) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !p.gone {
		s.clear(p)
	}
}

// forget clears every place of a toolchain.
func (s *shelf) forget(t *lang.Toolchain) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range slices.Clone(s.kinds) {
		if p.lang == t {
			s.clear(p)
		}
	}
	s.zygotes.forget(t)
}

// clear takes a place off the shelf, and closes its sets in the background.
func (s *shelf) clear(p *place) {
	p.gone = true
	p.expiry.Stop()
	p.late.Stop()
	s.kinds = slices.DeleteFunc(s.kinds, func(other *place) bool { return other == p })
	sets := p.sets
	p.sets = nil
	if len(sets) > 0 {
		s.work.Go(func() {
			for _, set := range sets {
				_ = set.close()
			}
		})
	}
}

// close closes every set and waits for what is being made.
func (s *shelf) close() {
	s.mu.Lock()
	s.stop()
	for len(s.kinds) > 0 {
		s.clear(s.kinds[0])
	}
	s.mu.Unlock()
	s.work.Wait()
	s.zygotes.close()
}
