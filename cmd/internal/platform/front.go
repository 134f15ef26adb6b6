package platform

import (
	"context"

	"github.com/crucible-eval/crucible/pkg/cache"
	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/pkg/fallback"
	"github.com/crucible-eval/crucible/pkg/live"
	"github.com/crucible-eval/crucible/pkg/service"
)

// front is a store as an API sees it.
type front struct {
	Store   eval.Store
	loops   []*service.Loop             // to run beside the API
	standIn func(context.Context) error // nil: nothing accepts while the storage is away
}

// lively are the loops, for those who ask how they are.
func (f front) lively() (all []service.Lively) {
	for _, l := range f.loops {
		all = append(all, l)
	}
	return all
}

// services is the loops and what comes after them, in the order of their start.
func (f front) services(after ...service.Service) (all []service.Service) {
	for _, l := range f.loops {
		all = append(all, l)
	}
	return append(all, after...)
}

// newFront puts before a store what the settings ask for: a cache, the
// announcement of changes, and outermost the journal that stands in for all of
// it. What the journal brings over is put into the queue at once.
func (p *Platform) newFront(cfg StandIn, store eval.Store, notices eval.Notices, queue eval.Queue, rt *Runtime) (front, error) {
	var err error
	if cfg.CacheSize > 0 {
		if store, err = cache.New(store, cache.Options{MaxBytes: int64(cfg.CacheSize), Registry: rt.Registry}); err != nil {
			return front{}, err
		}
	}
	store = live.Announcing(store, notices)
	if cfg.FallbackDir == "" {
		return front{Store: store}, nil
	}
	journal, err := fallback.Open(store, fallback.Options{
		Folder: cfg.FallbackDir, MaxBytes: int64(cfg.FallbackSize), Logger: rt.Logger, Registry: rt.Registry,
		Moved: func(ctx context.Context, moved []eval.Evaluation) {
			for _, e := range moved {
				if queue.Enqueue(ctx, e.Dispatch()) != nil {
					return // the reconciler does it
				}
			}
		},
	})
	if err != nil {
		return front{}, err
	}
	p.closeLater(journal.Close)
	p.fact("fallback", "a journal in %s", cfg.FallbackDir)
	return front{
		Store: journal, standIn: journal.Ready,
		loops: []*service.Loop{service.NewLoop("fallback", fallback.Bound, journal.Run)},
	}, nil
}
