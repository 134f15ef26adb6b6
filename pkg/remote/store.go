package remote

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/propagation"

	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/pkg/problem"
)

// Store is an [eval.Store] at a storage service.
type Store struct {
	base   string
	token  string
	client *http.Client
}

var (
	_ eval.Store  = (*Store)(nil)
	_ eval.Keeper = (*Store)(nil)
)

// DefaultTimeout bounds a call to a store when neither its context nor its
// client does.
const DefaultTimeout = 30 * time.Second

// NewStore returns the store that the storage service at url has. token may be
// empty, and client nil.
func NewStore(url, token string, client *http.Client) *Store {
	if client == nil {
		client = &http.Client{Transport: newTransport(), Timeout: DefaultTimeout}
	}
	return &Store{base: strings.TrimSuffix(url, "/"), token: token, client: client}
}

// newTransport keeps enough idle connections for the workers of one process.
func newTransport() *http.Transport {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.MaxIdleConnsPerHost = 64
	return t
}

// Close closes idle connections.
func (s *Store) Close() error {
	s.client.CloseIdleConnections()
	return nil
}

// unreachable is the error when no answer came, or only part of one.
func unreachable(base string, err error) error {
	return &eval.Error{Kind: eval.KindUnavailable, RetryAfter: time.Second, Err: err,
		Message: "the storage service at " + base + " does not answer; check that it runs"}
}

// introduce says who sends the request, and in which trace.
func introduce(r *http.Request, token string) {
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	otel.GetTextMapPropagator().Inject(r.Context(), propagation.HeaderCarrier(r.Header))
}

// lookTries is how often a question is asked when the connection fails.
// Changes are sent once: nobody knows whether the first one arrived.
const lookTries = 3

// look asks a question, again when the connection fails.
func look[Answer any](ctx context.Context, s *Store, method string, request any) (Answer, error) {
	var answer Answer
	var err error
	for try := range lookTries {
		var sent bool
		if answer, sent, err = send[Answer](ctx, s, method, request); sent || err == nil {
			break
		}
		select {
		case <-ctx.Done():
			return answer, err
		case <-time.After(time.Duration(try+1) * 20 * time.Millisecond):
		}
	}
	return answer, err
}

// do asks for a change.
func do[Answer any](ctx context.Context, s *Store, method string, request any) (Answer, error) {
	answer, _, err := send[Answer](ctx, s, method, request)
	return answer, err
}

// send posts the request. answered is true when the service has answered, be
// it with an error.
func send[Answer any](ctx context.Context, s *Store, method string, request any) (answer Answer, answered bool, err error) {
	body, err := json.Marshal(request)
	if err != nil {
		return answer, true, eval.Errorf(eval.KindInvalid, "the request cannot be written as JSON: %w", err)
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, s.base+StorePath+method, bytes.NewReader(body))
	if err != nil {
		return answer, true, eval.Errorf(eval.KindInvalid, "the URL of the storage service is wrong: %w", err)
	}
	r.Header.Set("Content-Type", "application/json")
	return exchange[Answer](s, r)
}

// exchange sends a request, as send says.
func exchange[Answer any](s *Store, r *http.Request) (answer Answer, answered bool, err error) {
	introduce(r, s.token)
	resp, err := s.client.Do(r)
	if err != nil {
		return answer, false, unreachable(s.base, err)
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode/100 != 2 {
		return answer, true, problem.Decode(resp)
	}
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		return answer, false, unreachable(s.base, err)
	}
	if err := json.Unmarshal(raw, &answer); err != nil {
		return answer, true, eval.Errorf(eval.KindInternal, "the storage service at %s answered what this version cannot read; start both with the same version: %w", s.base, err)
	}
	return answer, true, nil
}

// Info asks what the storage service is and what it holds of a project: the
// answer of [InfoPath], read into an Answer. KindUnavailable.
func Info[Answer any](ctx context.Context, s *Store, project string) (answer Answer, err error) {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, s.base+InfoPath+"?project="+url.QueryEscape(project), nil)
	if err != nil {
		return answer, eval.Errorf(eval.KindInvalid, "the URL of the storage service is wrong: %w", err)
	}
	answer, _, err = exchange[Answer](s, r)
	return answer, err
}

// Create implements [eval.Intake].
func (s *Store) Create(ctx context.Context, sub eval.Submission) ([]eval.Evaluation, bool, error) {
	a, err := do[CreateAnswer](ctx, s, "create", sub)
	return a.Evaluations, a.Replayed, err
}

// Cancel implements [eval.Intake].
func (s *Store) Cancel(ctx context.Context, key eval.Key, reason string) (eval.Evaluation, error) {
	return do[eval.Evaluation](ctx, s, "cancel", CancelRequest{key, reason})
}

// Get implements [eval.Reader].
func (s *Store) Get(ctx context.Context, key eval.Key) (eval.Evaluation, error) {
	e, _, err := s.GetKept(ctx, key)
	return e, err
}

// GetKept implements [eval.Keeper].
func (s *Store) GetKept(ctx context.Context, key eval.Key) (eval.Evaluation, time.Duration, error) {
	a, err := look[GetAnswer](ctx, s, "get", key)
	return a.Evaluation, a.Kept, err
}

// List implements [eval.Reader].
func (s *Store) List(ctx context.Context, q eval.Query) (eval.Page, error) {
	return look[eval.Page](ctx, s, "list", q)
}

// Events implements [eval.Reader].
func (s *Store) Events(ctx context.Context, key eval.Key, after int64, limit int) ([]eval.Event, error) {
	return look[[]eval.Event](ctx, s, "events", EventsRequest{key, after, limit})
}

// Feed implements [eval.Reader].
func (s *Store) Feed(ctx context.Context, project string, after int64, limit int) ([]eval.Event, error) {
	return look[[]eval.Event](ctx, s, "feed", FeedRequest{project, after, limit})
}

// Attempts implements [eval.Reader].
func (s *Store) Attempts(ctx context.Context, key eval.Key) ([]eval.Attempt, error) {
	return look[[]eval.Attempt](ctx, s, "attempts", key)
}

// Stats implements [eval.Reader].
func (s *Store) Stats(ctx context.Context, project string) (eval.Stats, error) {
	return look[eval.Stats](ctx, s, "stats", ProjectRequest{project})
}

// Clients implements [eval.Reader].
func (s *Store) Clients(ctx context.Context, project string) ([]eval.ClientCount, error) {
	return look[[]eval.ClientCount](ctx, s, "clients", ProjectRequest{project})
}

// Claim implements [eval.Leaser].
func (s *Store) Claim(ctx context.Context, r eval.ClaimRequest) (eval.Evaluation, error) {
	return do[eval.Evaluation](ctx, s, "claim", r)
}

// Beat implements [eval.Leaser].
func (s *Store) Beat(ctx context.Context, l eval.Lease, lease time.Duration) (eval.Beat, error) {
	return do[eval.Beat](ctx, s, "beat", BeatRequest{l, lease})
}

// Finish implements [eval.Leaser].
func (s *Store) Finish(ctx context.Context, l eval.Lease, o eval.Outcome) (eval.Evaluation, error) {
	return do[eval.Evaluation](ctx, s, "finish", FinishRequest{l, o})
}

// Due implements [eval.Scheduler].
func (s *Store) Due(ctx context.Context, r eval.DueRequest) ([]eval.Dispatch, error) {
	return do[[]eval.Dispatch](ctx, s, "due", r)
}

// Reap implements [eval.Scheduler].
func (s *Store) Reap(ctx context.Context, limit int) ([]eval.Evaluation, error) {
	return do[[]eval.Evaluation](ctx, s, "reap", LimitRequest{limit})
}

// Backlog implements [eval.Scheduler].
func (s *Store) Backlog(ctx context.Context) (eval.Backlog, error) {
	return do[eval.Backlog](ctx, s, "backlog", Nothing{})
}

// Expire implements [eval.Scheduler].
func (s *Store) Expire(ctx context.Context, limit int) ([]eval.Evaluation, error) {
	return do[[]eval.Evaluation](ctx, s, "expire", LimitRequest{limit})
}

// Rewind implements [eval.Scheduler].
func (s *Store) Rewind(ctx context.Context) (int, error) {
	a, err := do[Number](ctx, s, "rewind", Nothing{})
	return a.Number, err
}

// ListDeadLetters implements [eval.DeadLetters].
func (s *Store) ListDeadLetters(ctx context.Context, q eval.DeadLetterQuery) (eval.DeadLetterPage, error) {
	return look[eval.DeadLetterPage](ctx, s, "list_dead_letters", q)
}

// Retry implements [eval.DeadLetters].
func (s *Store) Retry(ctx context.Context, key eval.Key, newID eval.ID) (eval.Evaluation, error) {
	return do[eval.Evaluation](ctx, s, "retry", RetryRequest{key, newID})
}

// DeleteDeadLetter implements [eval.DeadLetters].
func (s *Store) DeleteDeadLetter(ctx context.Context, key eval.Key) error {
	_, err := do[Nothing](ctx, s, "delete_dead_letter", key)
	return err
}

// TakeCallbacks implements [eval.Outbox].
func (s *Store) TakeCallbacks(ctx context.Context, r eval.TakeRequest) ([]eval.Callback, error) {
	return do[[]eval.Callback](ctx, s, "take_callbacks", r)
}

// ReportCallback implements [eval.Outbox].
func (s *Store) ReportCallback(ctx context.Context, l eval.CallbackLease, d eval.Delivery) (eval.Callback, error) {
	return do[eval.Callback](ctx, s, "report_callback", ReportCallbackRequest{l, d})
}

// Callback implements [eval.Outbox].
func (s *Store) Callback(ctx context.Context, key eval.Key) (eval.Callback, error) {
	return look[eval.Callback](ctx, s, "callback", key)
}

// ListCallbacks implements [eval.Outbox].
func (s *Store) ListCallbacks(ctx context.Context, q eval.CallbackQuery) (eval.CallbackPage, error) {
	return look[eval.CallbackPage](ctx, s, "list_callbacks", q)
}

// RetryCallback implements [eval.Outbox].
func (s *Store) RetryCallback(ctx context.Context, key eval.Key) (eval.Callback, error) {
	return do[eval.Callback](ctx, s, "retry_callback", key)
}

// CountCallbacks implements [eval.Outbox].
func (s *Store) CountCallbacks(ctx context.Context, project string) (eval.CallbackStats, error) {
	return look[eval.CallbackStats](ctx, s, "count_callbacks", ProjectRequest{project})
}
