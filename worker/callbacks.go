package worker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/worker/internal/callback"
)

// maxCallbackTimeout bounds how long one receiver holds a place.
const maxCallbackTimeout = time.Minute

// Check says what is wrong with the settings.
func (c *Callbacks) Check() error {
	switch {
	case c.Guard == nil || c.Payload == nil:
		return errors.New("callbacks need a guard and a payload")
	case c.Timeout < 0 || c.Timeout > maxCallbackTimeout:
		return fmt.Errorf("the timeout of callbacks is %v: it must be above 0 and at most %v", c.Timeout, maxCallbackTimeout)
	case c.Every < 0 || c.AtOnce < 0 || c.PerHost < 0:
		return errors.New("a number of the callbacks is negative: all must be positive")
	}
	_, err := callback.NewSigner(c.Secrets)
	return err
}

// newDeliverer makes the loop of callbacks, where they are on.
func newDeliverer(cfg Config, deps Deps) (*callback.Deliverer, error) {
	c := cfg.Callbacks
	if c == nil {
		return nil, nil
	}
	if err := c.Check(); err != nil {
		return nil, fmt.Errorf("worker: %w", err)
	}
	signer, err := callback.NewSigner(c.Secrets)
	if err != nil {
		return nil, err
	}
	return callback.New(callback.Config{
		Name: cfg.Name, Version: cfg.Version, Timeout: cmp.Or(c.Timeout, 10*time.Second), Every: cmp.Or(c.Every, time.Second),
		AtOnce: cmp.Or(c.AtOnce, 32), PerHost: cmp.Or(c.PerHost, 4),
	}, callback.Deps{
		Store: deps.Store, Client: c.Guard.Client(), Check: c.Guard.Check, Sign: signer, Payload: c.Payload,
		Logger: deps.Logger.With("worker", cfg.Name), Registry: deps.Registry,
	}), nil
}

// waking is the store for the handler: the end of an evaluation with a callback wakes the deliverer. Those that end
// elsewhere are found by its next look.
func (w *Worker) waking(store eval.Store) eval.Store {
	if w.callback == nil {
		return store
	}
	return waking{store, w.callback.Wake}
}

type waking struct {
	eval.Store
	wake func()
}

func (s waking) Finish(ctx context.Context, l eval.Lease, o eval.Outcome) (eval.Evaluation, error) {
	e, err := s.Store.Finish(ctx, l, o)
	if err == nil && e.Status.Terminal() && e.Spec.CallbackURL != "" {
		s.wake()
	}
	return e, err
}
