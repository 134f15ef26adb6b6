// Package problem carries errors over HTTP as RFC 9457 problem+json, and back.
// What each kind means stands in eval.Kinds: its HTTP status, and whether an
// evaluation that met it may run again.
package problem

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/crucible-eval/crucible/pkg/eval"
)

// MediaType is the content type of a problem.
const MediaType = "application/problem+json"

// typePrefix makes a problem's type a URI that names its kind.
const typePrefix = "urn:crucible:problem:"

// maxBody bounds what Decode reads.
const maxBody = 1 << 20

// Problem is the body of an error response.
type Problem struct {
	Type     string            `json:"type"`             // urn:crucible:problem:<kind>
	Title    string            `json:"title"`            // the kind, in words
	Status   int               `json:"status"`           // the HTTP status
	Detail   string            `json:"detail,omitempty"` // what happened
	Do       string            `json:"do,omitempty"`     // what can be done about errors of this kind
	Instance string            `json:"instance,omitempty"`
	Errors   []eval.FieldError `json:"errors,omitempty"`            // one for each wrong field
	State    eval.Status       `json:"evaluation_status,omitempty"` // with a conflict: what the evaluation is
	// RetryAfterMS is when to come back; the Retry-After header has it in
	// whole seconds.
	RetryAfterMS int64 `json:"retry_after_ms,omitempty"`
}

// From describes an error for users. An error without a kind is internal,
// and nothing of it is shown.
func From(err error) Problem {
	var e *eval.Error
	switch {
	case errors.As(err, &e):
	case errors.Is(err, context.DeadlineExceeded):
		e = &eval.Error{Kind: eval.KindUnavailable, Message: "it took too long; try again"}
	default:
		e = &eval.Error{Kind: eval.KindInternal, Message: "something went wrong on our side; the log has the details"}
	}
	info := e.Kind.Info()
	return Problem{
		Type: typePrefix + string(info.Kind), Title: info.Title, Status: info.Status,
		Detail: e.Message, Do: info.Do, Errors: e.Fields, State: e.Status, RetryAfterMS: e.RetryAfter.Milliseconds(),
	}
}

// Write answers a request with the problem of err.
func Write(w http.ResponseWriter, r *http.Request, err error) error {
	p := From(err)
	p.Instance = r.URL.Path
	h := w.Header()
	h.Set("Content-Type", MediaType)
	h.Set("Cache-Control", "no-store")
	h.Del("Content-Length")
	if p.RetryAfterMS == 0 && p.Status == http.StatusServiceUnavailable {
		p.RetryAfterMS = 1000
	}
	if p.RetryAfterMS > 0 {
		h.Set("Retry-After", strconv.FormatInt(int64(math.Ceil(float64(p.RetryAfterMS)/1000)), 10))
	}
	w.WriteHeader(p.Status)
	if r.Method == http.MethodHead {
		return nil
	}
	return json.NewEncoder(w).Encode(p)
}

// Decode turns an error response back into the error that was written. It
// reads the body but does not close it. A response that is no problem, such
// as one of a proxy, becomes unavailable when its status is 5xx, else invalid.
func Decode(resp *http.Response) error {
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxBody))
	if err != nil {
		return eval.Errorf(eval.KindUnavailable, "the answer (HTTP %d) was cut; try again: %w", resp.StatusCode, err)
	}
	var p Problem
	if !strings.HasPrefix(resp.Header.Get("Content-Type"), MediaType) || json.Unmarshal(body, &p) != nil || !strings.HasPrefix(p.Type, typePrefix) {
		return foreign(resp)
	}
	return p.Err()
}

// Err is the error that From described, without its cause.
func (p Problem) Err() error {
	return &eval.Error{
		Kind: eval.Kind(strings.TrimPrefix(p.Type, typePrefix)), Message: p.Detail, Fields: p.Errors,
		Status: p.State, RetryAfter: time.Duration(p.RetryAfterMS) * time.Millisecond, Do: p.Do,
	}
}

func foreign(resp *http.Response) error {
	kind := eval.KindInvalid
	switch {
	case resp.StatusCode >= 500:
		kind = eval.KindUnavailable
	case resp.StatusCode == http.StatusNotFound:
		kind = eval.KindNotFound
	case resp.StatusCode == http.StatusUnauthorized:
		kind = eval.KindUnauthorized
	case resp.StatusCode == http.StatusForbidden:
		kind = eval.KindForbidden
	case resp.StatusCode == http.StatusTooManyRequests:
		kind = eval.KindRateLimited
	}
	e := &eval.Error{Kind: kind, Message: fmt.Sprintf("%s answered HTTP %d without saying why; is it a Crucible service?", resp.Request.URL.Host, resp.StatusCode)}
	if s, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && s >= 0 {
		e.RetryAfter = time.Duration(s) * time.Second
	}
	return e
}
