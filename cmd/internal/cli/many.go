package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/crucible-eval/crucible/cmd/internal/client"
	"github.com/crucible-eval/crucible/pkg/eval"
)

// manyAtOnce is the most that the API changes in one request.
const manyAtOnce = 500

// filter are the flags that select from any list.
type filter struct {
	Language string `help:"Only this language."`
	Tag      string `help:"Only with this tag."`
	Batch    string `help:"Only of this batch."`
	Client   string `help:"Only of the client with this name."`
	Since    string `placeholder:"TIME" help:"Only at or after this time (RFC 3339), or so long ago (1h)."`
	Until    string `placeholder:"TIME" help:"Only before this time, or so long ago."`
}

// body is the filter as a request's body has it.
func (f filter) body() (map[string]any, error) {
	body := map[string]any{}
	for name, v := range map[string]string{"language": f.Language, "tag": f.Tag, "batch": f.Batch, "client": f.Client} {
		if v != "" {
			body[name] = v
		}
	}
	for name, v := range map[string]string{"since": f.Since, "until": f.Until} {
		if v == "" {
			continue
		}
		at, err := timeOf("--"+name, v)
		if err != nil {
			return nil, err
		}
		body[name] = at.Format(time.RFC3339Nano)
	}
	return body, nil
}

// values is the filter as a query has it.
func (f filter) values() (url.Values, error) {
	body, err := f.body()
	q := url.Values{}
	for name, v := range body {
		q.Set(name, v.(string))
	}
	return q, err
}

// timeOf reads a point in time: RFC 3339, or a duration back from now.
func timeOf(flag, text string) (time.Time, error) {
	if d, err := time.ParseDuration(text); err == nil {
		return time.Now().Add(-d).UTC(), nil
	}
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return at, fmt.Errorf("%s %q is neither a time such as 2026-01-31T12:00:00Z nor a duration such as 1h", flag, text)
	}
	return at.UTC(), nil
}

// answer is what the API says to a request that changes many.
type answer struct {
	Cancelled []struct {
		ID     eval.ID     `json:"id"`
		Status eval.Status `json:"status"`
	} `json:"cancelled"`
	Retried []struct {
		ID    eval.ID `json:"id"`
		NewID eval.ID `json:"new_id"`
	} `json:"retried"`
	Deleted []eval.ID `json:"deleted"`
	Failed  []struct {
		ID     eval.ID `json:"id"`
		Detail string  `json:"detail"`
	} `json:"failed"`
	Next string `json:"next"`
}

// changeMany asks the API to change the entries that are named, or selected,
// in as many requests as it takes, and prints what became of each. One that
// fails does not stop the others; the exit code tells. more goes with each
// request.
func changeMany(s *session, r remote, path string, ids []eval.ID, selected, more map[string]any, lines func(answer) []string) error {
	switch {
	case len(ids) > 0 && len(selected) > 0:
		return withCode{errors.New("give ids, or flags that select, not both"), exitUsage}
	case len(ids) == 0 && len(selected) == 0:
		return withCode{errors.New("which? give ids, or select with flags such as --batch, --since or --all; --help shows them"), exitUsage}
	}
	api, err := r.open(1)
	if err != nil {
		return err
	}
	defer api.Close()
	all, failed := map[string][]json.RawMessage{}, 0
	one := func(which map[string]any) (next string, err error) {
		body := maps.Clone(which)
		maps.Copy(body, more)
		var raw json.RawMessage
		if err := api.Order(s.ctx, http.MethodPost, path, body, &raw); err != nil {
			return "", err
		}
		var a answer
		if err := json.Unmarshal(raw, &a); err != nil {
			return "", fmt.Errorf("the answer of %s cannot be read: %w", path, err)
		}
		failed += len(a.Failed)
		if s.json {
			return a.Next, gather(all, raw)
		}
		for _, line := range lines(a) {
			fmt.Fprintln(s.stdout, line)
		}
		for _, f := range a.Failed {
			fmt.Fprintf(s.stderr, "crucible: %s: %s\n", f.ID, f.Detail)
		}
		return a.Next, nil
	}
	for part := range slices.Chunk(ids, manyAtOnce) {
		if _, err := one(map[string]any{"ids": part}); err != nil {
			return err
		}
	}
	for more := len(ids) == 0; more; more = selected["cursor"] != "" {
		if selected["cursor"], err = one(selected); err != nil {
			return err
		}
	}
	if s.json {
		if err := writeJSON(s.stdout, all); err != nil {
			return err
		}
	}
	if failed > 0 {
		return exitCode(exitError)
	}
	return nil
}

// gather appends the lists of an answer to those of the answers before.
func gather(all map[string][]json.RawMessage, answer json.RawMessage) error {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(answer, &fields); err != nil {
		return err
	}
	for name, raw := range fields {
		var list []json.RawMessage
		if json.Unmarshal(raw, &list) == nil {
			all[name] = append(append([]json.RawMessage{}, all[name]...), list...)
		}
	}
	return nil
}

// CancelCmd ends evaluations.
type CancelCmd struct {
	remote
	filter
	IDs    []eval.ID     `arg:"" optional:"" name:"id" help:"Which."`
	Status []eval.Status `help:"Only queued, or only running ones."`
	All    bool          `help:"Everything that has not ended."`
	Reason string        `help:"Why; it is kept with them."`
}

// Run implements a kong command.
func (c *CancelCmd) Run(s *session) error {
	selected, err := c.body()
	if err != nil {
		return err
	}
	if len(c.Status) > 0 {
		selected["status"] = c.Status
	}
	if c.All {
		selected["all"] = true
	}
	if len(c.IDs) > 0 && len(selected) == 0 {
		return eachID(s, c.remote, c.IDs, func(api *client.Client, id eval.ID) (client.Evaluation, error) {
			return api.Cancel(s.ctx, id, c.Reason)
		})
	}
	more := map[string]any{}
	if c.Reason != "" {
		more["reason"] = c.Reason
	}
	return changeMany(s, c.remote, "/api/v1/evaluations/cancel", c.IDs, selected, more, func(a answer) (lines []string) {
		for _, e := range a.Cancelled {
			lines = append(lines, fmt.Sprintf("%s  %s", e.ID, e.Status))
		}
		return lines
	})
}

// RetryCmd runs failed evaluations again.
type RetryCmd struct {
	remote
	IDs []eval.ID `arg:"" name:"id" help:"Which."`
}

// Run implements a kong command.
func (c *RetryCmd) Run(s *session) error {
	return eachID(s, c.remote, c.IDs, func(api *client.Client, id eval.ID) (client.Evaluation, error) {
		return api.Retry(s.ctx, id)
	})
}

// eachID does something to several evaluations. One that fails does not stop
// the others; the exit code tells.
func eachID(s *session, r remote, ids []eval.ID, do func(*client.Client, eval.ID) (client.Evaluation, error)) error {
	api, err := r.open(1)
	if err != nil {
		return err
	}
	defer api.Close()
	done, failed := []client.Evaluation{}, 0
	for _, id := range ids {
		e, err := do(api, id)
		if err != nil {
			if _, ok := err.(*client.Unreachable); ok || s.ctx.Err() != nil {
				return err
			}
			failed++
			fmt.Fprintf(s.stderr, "crucible: %s: %s\n", id, explain(err))
			continue
		}
		done = append(done, e)
		if !s.json {
			fmt.Fprintf(s.stdout, "%s  %s\n", e.ID, e.Status)
		}
	}
	if s.json {
		if err := writeJSON(s.stdout, map[string]any{"evaluations": done}); err != nil {
			return err
		}
	}
	if failed > 0 {
		return exitCode(exitError)
	}
	return nil
}
