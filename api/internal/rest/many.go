package rest

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/pkg/problem"
)

// maxMany is the most entries that one request changes.
const maxMany = 500

// selection names entries of a list by their ids, or selects them. It is the
// part that all requests have in common which change many.
type selection struct {
	IDs      []eval.ID `json:"ids"`
	Language string    `json:"language"`
	Tag      string    `json:"tag"`
	Batch    string    `json:"batch"`
	Client   string    `json:"client"`
	Since    time.Time `json:"since"`
	Until    time.Time `json:"until"`
	All      bool      `json:"all"`    // select without a filter
	Limit    int       `json:"limit"`  // of those selected; 0 is 500
	Cursor   string    `json:"cursor"` // where to go on: next of the answer before
}

// filtered tells whether a filter that all lists have is given.
func (s *selection) filtered() bool {
	return s.Language != "" || s.Tag != "" || s.Batch != "" || s.Client != "" || !s.Since.IsZero() || !s.Until.IsZero()
}

// check fills in the limit and tells what is wrong. filtered says whether a
// filter is given, and filters is what there is, in words.
func (s *selection) check(filtered bool, filters string) []eval.FieldError {
	var bad []eval.FieldError
	wrong := func(field, format string, args ...any) {
		bad = append(bad, eval.FieldError{Field: field, Message: fmt.Sprintf(format, args...)})
	}
	switch n := len(s.IDs); {
	case n == 0 && !filtered && !s.All:
		wrong("ids", `is empty; give ids, or select by %s, or all with {"all":true}`, filters)
	case n > 0 && (filtered || s.All || s.Limit != 0 || s.Cursor != ""):
		wrong("ids", "cannot be given together with %s, limit, cursor or all", filters)
	case n > maxMany:
		wrong("ids", "has %d entries; at most %d are accepted", n, maxMany)
	}
	for i, id := range s.IDs[:min(len(s.IDs), maxMany)] {
		if !validID(string(id)) && len(bad) < mostFound {
			wrong(fmt.Sprintf("ids[%d]", i), "%q is not the id of an evaluation", clip(string(id)))
		}
	}
	if s.Batch != "" && !validID(s.Batch) {
		wrong("batch", "%q is not the id of a batch", clip(s.Batch))
	}
	if s.Limit == 0 {
		s.Limit = maxMany
	}
	if s.Limit < 1 || s.Limit > maxMany {
		wrong("limit", "is %d; it must be from 1 to %d", s.Limit, maxMany)
	}
	return bad
}

// NotDone is an entry that could not be changed, and why.
type NotDone struct {
	ID     eval.ID     `json:"id"`
	Status eval.Status `json:"status,omitempty"` // where that is the reason
	Detail string      `json:"detail"`
}

// each changes one entry after the other. One that fails does not stop the
// others, except that nobody is asked again who cannot be reached.
func each(ctx context.Context, ids []eval.ID, change func(eval.ID) error) []NotDone {
	failed := []NotDone{}
	var away error
	for i, id := range ids {
		if slices.Contains(ids[:i], id) {
			continue
		}
		err := away
		if err == nil {
			err = change(id)
		}
		if err == nil {
			continue
		}
		if eval.IsKind(err, eval.KindUnavailable) || ctx.Err() != nil {
			away = err
		}
		p := problem.From(err)
		failed = append(failed, NotDone{id, p.State, p.Detail})
	}
	return failed
}
