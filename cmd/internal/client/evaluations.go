package client

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/crucible-eval/crucible/pkg/eval"
)

const evaluations = "/api/v1/evaluations"

// MaxWait is the longest wait that one request asks for; [Client.Await]
// repeats them.
const MaxWait = 30 * time.Second

// Submit sends one evaluation, and waits up to wait for its end. key, when
// not empty, is the idempotency key.
func (c *Client) Submit(ctx context.Context, spec eval.Spec, wait time.Duration, key string) (Evaluation, error) {
	header := http.Header{}
	if key != "" {
		header.Set("Idempotency-Key", key)
	}
	var e Evaluation
	resp, err := c.do(ctx, http.MethodPost, evaluations, waiting(wait), spec, header)
	if err != nil {
		return e, err
	}
	defer closeBody(resp)
	if err := json.NewDecoder(resp.Body).Decode(&e); err != nil {
		return e, fmt.Errorf("the answer to the submission cannot be read: %w", err)
	}
	return e, nil
}

// SubmitBatch sends several evaluations: all are accepted, or none.
func (c *Client) SubmitBatch(ctx context.Context, specs []json.RawMessage) (Batch, error) {
	return ask[Batch](ctx, c, http.MethodPost, evaluations+"/batch", nil, map[string]any{"evaluations": specs})
}

// Get returns an evaluation, and waits up to wait for its end.
func (c *Client) Get(ctx context.Context, id eval.ID, wait time.Duration) (Evaluation, error) {
	return ask[Evaluation](ctx, c, http.MethodGet, path(id, ""), waiting(wait), nil)
}

// Await waits for the end of an evaluation for as long as ctx lives.
func (c *Client) Await(ctx context.Context, id eval.ID) (Evaluation, error) {
	for {
		e, err := c.Get(ctx, id, MaxWait)
		if err != nil || e.Status.Terminal() {
			return e, err
		}
	}
}

// List returns a page of evaluations, the newest first.
func (c *Client) List(ctx context.Context, query url.Values) (Page, error) {
	return ask[Page](ctx, c, http.MethodGet, evaluations, query, nil)
}

// Cancel asks for the end of an evaluation.
func (c *Client) Cancel(ctx context.Context, id eval.ID, reason string) (Evaluation, error) {
	var body any
	if reason != "" {
		body = map[string]string{"reason": reason}
	}
	return ask[Evaluation](ctx, c, http.MethodPost, path(id, "/cancel"), nil, body)
}

// Retry runs a failed evaluation again, as a new one.
func (c *Client) Retry(ctx context.Context, id eval.ID) (Evaluation, error) {
	return ask[Evaluation](ctx, c, http.MethodPost, path(id, "/retry"), nil, nil)
}

// Output copies a whole stream from an offset to w and returns how many bytes.
func (c *Client) Output(ctx context.Context, id eval.ID, stream string, offset int64, w io.Writer) (int64, error) {
	header := http.Header{}
	if offset > 0 {
		header.Set("Range", fmt.Sprintf("bytes=%d-", offset))
	}
	return c.copy(ctx, path(id, "/output/"+stream), header, w)
}

// Artifact copies the artifact with this number to w and returns how many bytes.
func (c *Client) Artifact(ctx context.Context, id eval.ID, index int, w io.Writer) (int64, error) {
	return c.copy(ctx, path(id, fmt.Sprintf("/artifacts/%d", index)), nil, w)
}

func (c *Client) copy(ctx context.Context, path string, header http.Header, w io.Writer) (int64, error) {
	resp, err := c.do(ctx, http.MethodGet, path, nil, nil, header)
	if err != nil {
		return 0, err
	}
	defer closeBody(resp)
	return io.Copy(w, resp.Body)
}

// Languages lists the languages of the platform.
func (c *Client) Languages(ctx context.Context) ([]eval.Language, error) {
	a, err := c.LanguageList(ctx)
	return a.Languages, err
}

// LanguageList has the languages, and which executors could not take over
// changed language files.
type LanguageList struct {
	Languages []eval.Language `json:"languages"`
	Problems  []struct {
		Executor string `json:"executor"`
		Problem  string `json:"problem"`
	} `json:"problems,omitempty"`
}

// LanguageList lists the languages of the platform, with problems.
func (c *Client) LanguageList(ctx context.Context) (LanguageList, error) {
	return ask[LanguageList](ctx, c, http.MethodGet, "/api/v1/languages", nil, nil)
}

// Ask gets any path of the API into out.
func (c *Client) Ask(ctx context.Context, path string, query url.Values, out any) error {
	return c.call(ctx, http.MethodGet, path, query, nil, out)
}

// Order posts to, or deletes, any path of the API.
func (c *Client) Order(ctx context.Context, method, path string, body, out any) error {
	return c.call(ctx, method, path, nil, body, out)
}

// ask is call with the answer as a value.
func ask[T any](ctx context.Context, c *Client, method, path string, query url.Values, body any) (T, error) {
	var out T
	err := c.call(ctx, method, path, query, body, &out)
	return out, err
}

func path(id eval.ID, rest string) string {
	return evaluations + "/" + url.PathEscape(string(id)) + rest
}

func waiting(wait time.Duration) url.Values {
	if wait <= 0 {
		return nil
	}
	return url.Values{"wait": {strconv.FormatInt(min(wait, MaxWait).Milliseconds(), 10) + "ms"}}
}
