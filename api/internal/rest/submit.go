package rest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/labstack/echo/v4"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/crucible-eval/crucible/api/internal/quota"
	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/pkg/httpkit"
)

const (
	// maxBatch is the most evaluations in one batch.
	maxBatch = 1000
	// enqueueTime bounds what a request spends on the queue after its
	// evaluations are written: the reconciler does what is left.
	enqueueTime = 5 * time.Second
	// enqueueAtOnce is how many of a batch are on their way at once.
	enqueueAtOnce = 8
	// maxKeyBytes bounds an idempotency key.
	maxKeyBytes = 255
)

// submit accepts one evaluation.
func (a *API) submit(c echo.Context) error {
	q := query(c)
	wait := q.wait(a.MaxWait)
	key := idempotencyKey(c, q)
	if err := q.err(); err != nil {
		return err
	}
	raw, err := httpkit.Decode[json.RawMessage](c)
	if err != nil {
		return err
	}
	spec, bad := decodeSpec(raw, "")
	if len(bad) > 0 {
		return eval.Invalid(bad)
	}
	ctx := c.Request().Context()
	granted, bad := a.validate(spec, a.known(ctx))
	if len(bad) > 0 {
		return eval.Invalid(bad)
	}
	created, replayed, err := a.create(c, []eval.Spec{spec}, []eval.Spec{granted}, "", key)
	if err != nil {
		return err
	}
	e := created[0]
	markReplay(c, replayed)
	c.Response().Header().Set(echo.HeaderLocation, pathOf(e.ID))
	if wait > 0 && !e.Status.Terminal() {
		// It is accepted, whatever happens now: the client must learn its id.
		if now, err := a.await(ctx, e.Key, wait); err == nil {
			e = now
		}
	}
	return answer(c, e)
}

type batchRequest struct {
	Evaluations []json.RawMessage `json:"evaluations"`
}

// Batch is the answer to a batch.
type Batch struct {
	BatchID     string       `json:"batch_id"`
	Evaluations []Evaluation `json:"evaluations"`
}

// submitBatch accepts all evaluations of a batch or none.
func (a *API) submitBatch(c echo.Context) error {
	q := query(c)
	key := idempotencyKey(c, q)
	if err := q.err(); err != nil {
		return err
	}
	req, err := httpkit.Decode[batchRequest](c)
	if err != nil {
		return err
	}
	if n := len(req.Evaluations); n == 0 || n > maxBatch {
		return eval.Invalid([]eval.FieldError{{Field: "evaluations", Message: fmt.Sprintf("has %d entries; a batch has 1 to %d", n, maxBatch)}})
	}
	ctx := c.Request().Context()
	asked, granted := make([]eval.Spec, len(req.Evaluations)), make([]eval.Spec, len(req.Evaluations))
	var wrong []eval.FieldError
	known := a.known(ctx)
	for i, raw := range req.Evaluations {
		at := fmt.Sprintf("evaluations[%d].", i)
		spec, bad := decodeSpec(raw, at)
		if len(bad) == 0 {
			asked[i] = spec
			granted[i], bad = a.validate(spec, known)
			for j := range bad {
				bad[j].Field = at + bad[j].Field
			}
		}
		wrong = append(wrong, bad...)
		if len(wrong) >= mostFound {
			wrong = wrong[:mostFound]
			break
		}
	}
	if len(wrong) > 0 {
		return eval.Invalid(wrong)
	}
	id, err := uuid.NewV7()
	if err != nil {
		return err
	}
	created, replayed, err := a.create(c, asked, granted, id.String(), key)
	if err != nil {
		return err
	}
	markReplay(c, replayed)
	out := Batch{BatchID: created[0].BatchID, Evaluations: make([]Evaluation, len(created))}
	for i, e := range created {
		out.Evaluations[i] = brief(e)
	}
	c.Response().Header().Set(echo.HeaderLocation, evaluationsPath+"?batch="+out.BatchID)
	return c.JSON(http.StatusAccepted, out)
}

// validate checks what a client asks for, and returns it as granted.
func (a *API) validate(spec eval.Spec, known func(string) (eval.Language, bool)) (eval.Spec, []eval.FieldError) {
	granted, bad := a.Policy.Validate(spec, time.Now(), known)
	if problem := a.checkCallback(spec.CallbackURL); problem != "" {
		bad = append(bad, eval.FieldError{Field: "callback_url", Message: problem})
	}
	return granted, bad
}

// create writes the granted specs as evaluations and hands them to the queue.
// asked is what the client sent: the same again is the same request.
func (a *API) create(c echo.Context, asked, granted []eval.Spec, batch, key string) ([]eval.Evaluation, bool, error) {
	ctx, client := c.Request().Context(), httpkit.Client(c)
	if err := a.isolated(ctx, granted); err != nil {
		return nil, false, err
	}
	sub := eval.Submission{IdempotencyKey: key, Evaluations: make([]eval.Evaluation, len(granted))}
	if key != "" {
		print, err := fingerprint(batch != "", asked)
		if err != nil {
			return nil, false, err
		}
		sub.Fingerprint = print
	}
	traceparent := traceOf(ctx, c.Request().Header)
	for i, spec := range granted {
		id, err := uuid.NewV7()
		if err != nil {
			return nil, false, err
		}
		sub.Evaluations[i] = eval.Evaluation{Key: keyOf(eval.ID(id.String())), Spec: spec, BatchID: batch, Client: client, Trace: traceparent}
	}
	created, replayed, err := a.admitted(ctx, client, sub)
	if err != nil {
		return nil, false, err
	}
	if replayed {
		a.Metrics.Replayed.Inc()
		return created, true, nil
	}
	trace.SpanFromContext(ctx).SetAttributes(attribute.String("crucible.evaluation", string(created[0].ID)), attribute.Int("crucible.evaluations", len(created)))
	for _, e := range created {
		a.Metrics.Accepted.WithLabelValues(e.Spec.Language, string(e.Spec.Priority)).Inc()
	}
	if batch == "" {
		a.Log.Info("evaluation accepted", "id", created[0].ID, "client", client, "language", created[0].Spec.Language, "priority", created[0].Spec.Priority)
	} else {
		a.Log.Info("batch accepted", "batch", batch, "client", client, "evaluations", len(created))
	}
	a.enqueue(ctx, created)
	return created, false, nil
}

// admitted creates what the client's limits let in. A submission that was
// accepted before is not refused: it adds nothing.
func (a *API) admitted(ctx context.Context, client string, sub eval.Submission) (created []eval.Evaluation, replayed bool, err error) {
	settle, err := a.Quota.Admit(ctx, client, len(sub.Evaluations))
	if errors.Is(err, quota.ErrFull) && sub.IdempotencyKey != "" {
		sub.Recall = true
		created, replayed, known := a.Store.Create(ctx, sub)
		if known == nil || eval.IsKind(known, eval.KindKeyReused) {
			return created, replayed, known
		}
	}
	if err != nil {
		return nil, false, err
	}
	created, replayed, err = a.Store.Create(ctx, sub)
	settle(err == nil && !replayed)
	return created, replayed, err
}

// enqueue is the fast path to the workers, for those that the store has
// dispatched; the others wait for their turn in the store. Workers are told of
// what is queued in any case by the reconciler, so a failure is no error here;
// the first one ends it.
func (a *API) enqueue(ctx context.Context, created []eval.Evaluation) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), enqueueTime)
	defer cancel()
	dispatched := slices.DeleteFunc(slices.Clone(created), func(e eval.Evaluation) bool { return !e.Dispatched() })
	var next, done atomic.Int64
	var wg sync.WaitGroup
	for range min(enqueueAtOnce, len(dispatched)) {
		wg.Go(func() {
			for i := next.Add(1) - 1; i < int64(len(dispatched)); i = next.Add(1) - 1 {
				e := dispatched[i]
				if err := a.Queue.Enqueue(ctx, e.Dispatch()); err != nil {
					next.Store(int64(len(dispatched)))
					a.Log.Warn("accepted, but the queue does not answer; it runs when the reconciler brings it back", "id", e.ID, "err", err)
					return
				}
				done.Add(1)
			}
		})
	}
	wg.Wait()
	a.Metrics.NotEnqueued.Add(float64(int64(len(dispatched)) - done.Load()))
}

// isolated refuses what no executor isolates as well as it asks for: accepted,
// it would only use up its tries. While no executor was ever reached, nothing
// is refused: the executor decides then.
func (a *API) isolated(ctx context.Context, granted []eval.Spec) error {
	asked := false
	for _, spec := range granted {
		level, ok := a.Catalog.Strongest()
		if ok && !asked && !eval.StrongEnough(level, spec.MinIsolation) {
			asked = true // it may have changed
			a.Catalog.States(ctx)
			level, _ = a.Catalog.Strongest()
		}
		if ok && !eval.StrongEnough(level, spec.MinIsolation) {
			return eval.Errorf(eval.KindIsolation, "the executors isolate at level %q at most, and min_isolation asks for %q; "+
				"ask for less, or see GET /api/v1/isolation for what stronger levels need", level, spec.MinIsolation)
		}
	}
	return nil
}

// known finds languages for the validation.
func (a *API) known(ctx context.Context) func(string) (eval.Language, bool) {
	return func(name string) (eval.Language, bool) { return a.Catalog.Find(ctx, name) }
}

// fingerprint names what a request asks for. Two requests with the same
// meaning have the same one, however they are written in JSON.
func fingerprint(batch bool, asked []eval.Spec) (string, error) {
	h := sha256.New()
	if err := json.NewEncoder(h).Encode(struct {
		Batch bool
		Specs []eval.Spec
	}{batch, asked}); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// idempotencyKey reads the header of that name.
func idempotencyKey(c echo.Context, q *params) string {
	const header = "Idempotency-Key"
	all := c.Request().Header.Values(header)
	if len(all) == 0 {
		return ""
	}
	key := all[0]
	printable := !strings.ContainsFunc(key, func(r rune) bool { return r < ' ' || r > '~' })
	if len(all) > 1 || key == "" || len(key) > maxKeyBytes || !printable {
		q.wrong(header, "must be one header of 1 to %d printable ASCII characters", maxKeyBytes)
	}
	return key
}

func markReplay(c echo.Context, replayed bool) {
	if replayed {
		c.Response().Header().Set("Idempotency-Replayed", "true")
	}
}

// traceOf is the W3C traceparent of the request's span, or of the client's
// when this server traces nothing, or "".
func traceOf(ctx context.Context, h http.Header) string {
	w3c, carrier := propagation.TraceContext{}, propagation.MapCarrier{}
	if !trace.SpanContextFromContext(ctx).IsValid() {
		ctx = w3c.Extract(ctx, propagation.HeaderCarrier(h))
	}
	w3c.Inject(ctx, carrier)
	return carrier["traceparent"]
}
