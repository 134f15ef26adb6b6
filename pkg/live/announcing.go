package live

import (
	"context"

	"github.com/crucible-eval/crucible/pkg/eval"
)

// Announcing returns the store with an announcement after each change of a status, so that those who wait for it
// look at once. What the announcement meets is ignored, and it takes a quarter of a second at most: Live itself stays
// silent for a second after a failure.
func Announcing(store eval.Store, notices eval.Notices) eval.Store {
	return &announcing{Store: store, notices: notices}
}

type announcing struct {
	eval.Store
	notices eval.Notices
}

// several is what Notices may offer beyond the interface.
type several interface {
	AnnounceAll(ctx context.Context, notices []eval.Notice) error
}

func (a *announcing) announce(ctx context.Context, changed ...eval.Evaluation) {
	if len(changed) == 0 {
		return
	}
	// The change has happened, whatever became of the caller since.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
	defer cancel()
	notices := make([]eval.Notice, len(changed))
	for i, e := range changed {
		notices[i] = eval.Notice{Key: e.Key, Status: e.Status, Seq: e.EventSeq, CancelRequested: e.CancelRequestedAt != nil}
	}
	if all, ok := a.notices.(several); ok {
		_ = all.AnnounceAll(ctx, notices)
		return
	}
	for _, n := range notices {
		if a.notices.Announce(ctx, n) != nil {
			return
		}
	}
}

func (a *announcing) Create(ctx context.Context, s eval.Submission) ([]eval.Evaluation, bool, error) {
	created, replayed, err := a.Store.Create(ctx, s)
	if err == nil && !replayed {
		a.announce(ctx, created...)
	}
	return created, replayed, err
}

func (a *announcing) Cancel(ctx context.Context, key eval.Key, reason string) (eval.Evaluation, error) {
	e, err := a.Store.Cancel(ctx, key, reason)
	if err == nil {
		a.announce(ctx, e)
	}
	return e, err
}

func (a *announcing) Claim(ctx context.Context, r eval.ClaimRequest) (eval.Evaluation, error) {
	e, err := a.Store.Claim(ctx, r)
	if err == nil {
		a.announce(ctx, e)
	}
	return e, err
}

func (a *announcing) Finish(ctx context.Context, l eval.Lease, o eval.Outcome) (eval.Evaluation, error) {
	e, err := a.Store.Finish(ctx, l, o)
	if err == nil {
		a.announce(ctx, e)
	}
	return e, err
}

func (a *announcing) Reap(ctx context.Context, limit int) ([]eval.Evaluation, error) {
	reaped, err := a.Store.Reap(ctx, limit)
	a.announce(ctx, reaped...) // each is written by itself, so some may be when others failed
	return reaped, err
}

func (a *announcing) Expire(ctx context.Context, limit int) ([]eval.Evaluation, error) {
	expired, err := a.Store.Expire(ctx, limit)
	a.announce(ctx, expired...)
	return expired, err
}

func (a *announcing) Retry(ctx context.Context, key eval.Key, newID eval.ID) (eval.Evaluation, error) {
	e, err := a.Store.Retry(ctx, key, newID)
	if err == nil {
		a.announce(ctx, e)
	}
	return e, err
}
