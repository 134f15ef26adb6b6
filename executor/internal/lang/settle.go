package lang

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/crucible-eval/crucible/executor/internal/sandbox"
)

const (
	// provers is how many languages are proven at once.
	provers = 2
	// proveTimeout bounds one toolchain's proof, its cache not counted.
	proveTimeout = 2 * time.Minute
	// proveTries is how often a toolchain is tried when the sandbox fails it.
	proveTries = 3
)

// settle finds out about each language anew, quick ones first, and puts what
// it found in the place of what was known. It returns when all are known, or
// ctx ends.
func (r *Registry) settle(ctx context.Context, all []*Definition, how func(id string) thorough) {
	order := slices.Clone(all)
	slices.SortStableFunc(order, func(a, b *Definition) int { return cmp.Compare(rank(a), rank(b)) })
	queue := make(chan *Definition, len(order))
	for _, d := range order {
		queue <- d
	}
	close(queue)
	var work sync.WaitGroup
	for range provers {
		work.Go(func() {
			for d := range queue {
				r.update(ctx, d, how(d.ID))
			}
		})
	}
	work.Wait()
}

// rank puts what takes long last.
func rank(d *Definition) int {
	switch {
	case d.Cache != nil:
		return 2
	case d.slow():
		return 1
	}
	return 0
}

// thorough is how much of what is known of a language may stand.
type thorough int

const (
	ifChanged thorough = iota // all, if its toolchains and its file are the same
	ifMissing                 // the same, if it works
	anew                      // nothing, not even an earlier proof
)

// update finds out about one language.
func (r *Registry) update(ctx context.Context, d *Definition, how thorough) {
	found, missing := detect(ctx, d)
	if ctx.Err() != nil {
		return
	}
	stamps := []string{d.digest}
	for _, t := range found {
		stamps = append(stamps, t.stamp)
	}
	r.mu.Lock()
	old := r.entries[d.ID]
	r.mu.Unlock()
	if old.settled() && slices.Equal(old.found, stamps) && (how == ifChanged || how == ifMissing && len(old.offered) > 0) {
		return
	}
	next := &entry{def: d, known: make(chan struct{}), found: stamps}
	close(next.known)
	if missing != nil {
		next.problem = missing.Error()
		r.report(Report{ID: d.ID, Err: missing})
	}
	for _, t := range found {
		proof, err := r.ready(ctx, t, how == anew)
		if ctx.Err() != nil {
			return
		}
		if errors.Is(err, sandbox.ErrPlatform) && len(old.offered) > 0 {
			// It says nothing about the language, and a run that cannot start it
			// asks again.
			r.opt.Logger.Warn("language not checked, and left as it is", "language", d.ID, "err", err)
			return
		}
		r.report(Report{ID: d.ID, Path: t.Path(), Proof: proof, Err: err})
		if err == nil {
			next.offered = append(next.offered, t)
		} else {
			next.problem = cmp.Or(next.problem, err.Error())
			if len(found) > 1 {
				r.opt.Logger.Warn("toolchain not offered", "language", d.ID, "path", t.Path(), "problem", err)
			}
		}
	}
	if len(next.offered) > 0 {
		next.problem = ""
	}
	next.at = time.Now()
	r.replace(old, next)
}

func (e *entry) settled() bool {
	select {
	case <-e.known:
		return true
	default:
		return false
	}
}

func (r *Registry) report(p Report) {
	if r.opt.Report != nil {
		r.opt.Report(p)
	}
}

// ready makes what a toolchain needs and has it proven, unless an earlier
// proof may stand.
func (r *Registry) ready(ctx context.Context, t *Toolchain, anew bool) (Proof, error) {
	if err := t.prepareCache(ctx, r.opt.CacheDir, r.opt.InPlace); err != nil {
		return Proof{}, err
	}
	if proof, ok := r.proofs.recall(t); ok && !anew {
		t.Version = proof.Version
		return proof, nil
	}
	ctx, cancel := context.WithTimeoutCause(ctx, proveTimeout, errors.New("its smoke test took too long"))
	defer cancel()
	var proof Proof
	var err error
	for range proveTries {
		if proof, err = r.opt.Prove(ctx, t); !errors.Is(err, sandbox.ErrPlatform) {
			break
		}
	}
	if err != nil {
		r.proofs.forget(t)
		return Proof{}, err
	}
	t.Version = proof.Version
	r.proofs.remember(t, proof)
	return proof, nil
}

// replace puts an entry in the place of an old one. The old one's toolchains
// are retired.
func (r *Registry) replace(old, next *entry) {
	id := next.def.ID
	r.mu.Lock()
	r.entries[id] = next
	r.mu.Unlock()
	if !old.settled() {
		close(old.known)
	}
	r.retire(old)
	if len(next.offered) > 0 {
		r.opt.Logger.Info("language ready", "language", id, "versions", next.versions())
	} else {
		// Most of the built-in ones are not installed anywhere: the lists tell.
		r.opt.Logger.Debug("language not available", "language", id, "problem", next.problem)
	}
}

func (r *Registry) retire(e *entry) {
	if r.opt.Retire == nil {
		return
	}
	for _, t := range e.offered {
		r.opt.Retire(t)
	}
}
