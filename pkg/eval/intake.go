package eval

import (
	"encoding/base64"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// MaxSubmission is the most evaluations that a store accepts at once.
const MaxSubmission = 4096

// StoreTime is t as stores keep it: UTC, with microseconds.
func StoreTime(t time.Time) time.Time { return t.UTC().Truncate(time.Microsecond) }

// Accept makes the changes that write a submission. Only the fields that a
// client of a store may set are taken. KindInvalid: none, too many, from
// several projects or clients, or text that no database could keep. KindConflict: the
// same id twice.
func (s Submission) Accept(now time.Time) ([]Change, error) {
	if err := s.validate(); err != nil {
		return nil, err
	}
	changes := make([]Change, len(s.Evaluations))
	for i, e := range s.Evaluations {
		e = fresh(e)
		e.CreatedAt = StoreTime(s.AcceptedAt)
		changes[i] = Accept(e, now)
	}
	return changes, nil
}

func fresh(e Evaluation) Evaluation {
	e = Evaluation{Key: e.Key, Spec: e.Spec, BatchID: e.BatchID, RetryOf: e.RetryOf, Client: e.Client, Trace: e.Trace}
	if e.Spec.Priority == "" {
		e.Spec.Priority = PriorityDefault
	}
	if e.Spec.RunAt != nil {
		e.Spec.RunAt = ptr(StoreTime(*e.Spec.RunAt))
	}
	return e
}

func (s Submission) validate() error {
	switch n := len(s.Evaluations); {
	case n == 0:
		return Errorf(KindInvalid, "a submission needs at least one evaluation")
	case n > MaxSubmission:
		return Errorf(KindInvalid, "a submission has %d evaluations; at most %d are accepted at once", n, MaxSubmission)
	}
	var bad []FieldError
	check := func(name, value string) {
		if !isText(value) {
			bad = append(bad, FieldError{name, "must be UTF-8 without NUL"})
		}
	}
	check("idempotency_key", s.IdempotencyKey)
	check("fingerprint", s.Fingerprint)
	seen := make(map[ID]bool, len(s.Evaluations))
	for i, e := range s.Evaluations {
		at := fmt.Sprintf("evaluations[%d].", i)
		if e.Project == "" || e.ID == "" {
			bad = append(bad, FieldError{at + "id", "needs a project and an id"})
		}
		if e.Project != s.Evaluations[0].Project {
			bad = append(bad, FieldError{at + "project", fmt.Sprintf("is %q; all of a submission belong to one project, here %q", e.Project, s.Evaluations[0].Project)})
		}
		if e.Client != s.Evaluations[0].Client {
			bad = append(bad, FieldError{at + "client", fmt.Sprintf("is %q; all of a submission belong to one client, here %q", e.Client, s.Evaluations[0].Client)})
		}
		check(at+"project", e.Project)
		check(at+"client", e.Client)
		check(at+"id", string(e.ID))
		check(at+"batch_id", e.BatchID)
		check(at+"client", e.Client)
		check(at+"trace", e.Trace)
		check(at+"language", e.Spec.Language)
		if e.Spec.Priority != "" && !e.Spec.Priority.Valid() {
			bad = append(bad, FieldError{at + "priority", fmt.Sprintf("%q is not one of %s", clip(string(e.Spec.Priority)), join(Priorities()))})
		}
		check(at+"callback_url", e.Spec.CallbackURL)
		for j, tag := range e.Spec.Tags {
			check(fmt.Sprintf("%stags[%d]", at, j), tag)
		}
		if seen[e.ID] {
			return &Error{Kind: KindConflict, Message: fmt.Sprintf("id %s occurs twice in the submission; each needs one of its own", e.ID)}
		}
		seen[e.ID] = true
	}
	return Invalid(bad)
}

// isText reports whether every database can keep s as text.
func isText(s string) bool { return utf8.ValidString(s) && !strings.ContainsRune(s, 0) }

// Plausible is false for a key that no store could hold, because it is not
// text. What is not plausible is not there.
func (k Key) Plausible() bool { return isText(k.Project) && isText(string(k.ID)) }

// Exists is the error for an id that is taken.
func (k Key) Exists() error {
	return &Error{Kind: KindConflict, Message: fmt.Sprintf("evaluation %s exists already; use a new id", k.ID)}
}

// Missing is the error for an evaluation that is not there.
func (k Key) Missing() error {
	return &Error{Kind: KindNotFound, Message: fmt.Sprintf("there is no evaluation %q", string(k.ID))}
}

// Missing is the error for a lease on an evaluation that is not there: its
// worker has to stop.
func (l Lease) Missing() error {
	return &Error{Kind: KindLeaseLost, Message: fmt.Sprintf("attempt %d holds nothing: there is no evaluation %q", l.Attempt, string(l.ID))}
}

// Client is whose submission it is, once it has been validated.
func (s Submission) Client() string { return s.Evaluations[0].Client }

// KeyReused is the error for an idempotency key that came with another request.
func (s Submission) KeyReused() error {
	return &Error{Kind: KindKeyReused,
		Message: fmt.Sprintf("idempotency key %q was used with another request; use a new key", s.IdempotencyKey)}
}

// Forgotten is the error for an idempotency key whose evaluations, or some of
// them, have been removed since.
func (s Submission) Forgotten() error {
	return &Error{Kind: KindConflict,
		Message: fmt.Sprintf("idempotency key %q was used within the last day, and what it made has been removed since; use a new key to run it again", s.IdempotencyKey)}
}

// Unused is the error for the recall of a key that was not used.
func (s Submission) Unused() error {
	return &Error{Kind: KindNotFound, Message: fmt.Sprintf("idempotency key %q was not used within the last day", s.IdempotencyKey)}
}

// Again makes a new evaluation with the spec of a failed one. Any other
// status is a KindConflict error that carries it.
func (e Evaluation) Again(id ID, now time.Time) (Change, error) {
	if e.Status != Failed {
		return Change{}, e.conflict("cannot be retried, because it has not failed")
	}
	s := Submission{Evaluations: []Evaluation{{Key: Key{e.Project, id}, Spec: e.Spec, RetryOf: e.ID, Client: e.Client}}}
	changes, err := s.Accept(now)
	if err != nil {
		return Change{}, err
	}
	return changes[0], nil
}

// Validate checks what a worker reports. KindInvalid: a stream that has to be
// in [Blobs] is not, or nothing is reported.
func (o Outcome) Validate() error {
	if o.Result == nil && o.Failure == nil && !o.Cancelled {
		return Errorf(KindInvalid, "an outcome needs a result, a failure or a cancel")
	}
	if o.Result == nil {
		return nil
	}
	for _, s := range o.Result.Streams() {
		if len(s.Data) > InlineBytes {
			return Errorf(KindInvalid, "a stream of %d bytes is too long for the row: put it into blobs and keep its first %d bytes", len(s.Data), InlineBytes)
		}
		if s.Blob == "" && s.Bytes > int64(len(s.Data)) {
			return Errorf(KindInvalid, "a stream says %d bytes and has %d, and names no blob with the whole", s.Bytes, len(s.Data))
		}
	}
	return nil
}

// Reported says whether the attempt's worker has finished it, so that the
// same report again changes nothing.
func (a Attempt) Reported() bool { return a.Outcome != AttemptRunning && a.Outcome != AttemptLost }

// Limits of a page.
const (
	DefaultPage = 50
	MaxPage     = 500
)

// Check returns the query with its limit filled in, and its cursor, which is
// nil on the first page. KindInvalid.
func (q Query) Check() (Query, *Cursor, error) {
	limit, cursor, err := checkPage("evaluations", q.Limit, q.Cursor, q.Project, q.Language, q.Tag, q.Batch, q.Client)
	q.Limit = limit
	return q, cursor, err
}

// Matches reports whether the query selects an evaluation of its project.
func (q Query) Matches(e Evaluation) bool {
	return (len(q.Status) == 0 || slices.Contains(q.Status, e.Status)) &&
		(len(q.Verdict) == 0 || slices.Contains(q.Verdict, e.Verdict)) &&
		(q.Language == "" || q.Language == e.Spec.Language) &&
		(q.Tag == "" || slices.Contains(e.Spec.Tags, q.Tag)) &&
		(q.Batch == "" || q.Batch == e.BatchID) &&
		(q.Client == "" || q.Client == e.Client) &&
		(q.Since.IsZero() || !e.CreatedAt.Before(q.Since)) &&
		(q.Until.IsZero() || e.CreatedAt.Before(q.Until))
}

// Check returns the query with its limit filled in, and its cursor, which is
// nil on the first page. KindInvalid.
func (q DeadLetterQuery) Check() (DeadLetterQuery, *Cursor, error) {
	texts := []string{q.Project, q.Language, q.Tag, q.Batch, q.Client}
	for _, k := range q.Kind {
		texts = append(texts, string(k))
	}
	for _, id := range q.IDs {
		texts = append(texts, string(id))
	}
	if len(q.IDs) > MaxPage {
		return q, nil, Invalid([]FieldError{{"ids", fmt.Sprintf("has %d entries; at most %d are accepted", len(q.IDs), MaxPage)}})
	}
	limit, cursor, err := checkPage("dead_letters", q.Limit, q.Cursor, texts...)
	q.Limit = limit
	return q, cursor, err
}

// Matches reports whether the query selects a dead letter, its place in the
// list aside.
func (q DeadLetterQuery) Matches(d DeadLetter) bool {
	return (len(q.IDs) == 0 || slices.Contains(q.IDs, d.ID)) &&
		(len(q.Kind) == 0 || slices.Contains(q.Kind, d.Failure.Kind)) &&
		(q.Language == "" || q.Language == d.Language) &&
		(q.Tag == "" || slices.Contains(d.Tags, q.Tag)) &&
		(q.Batch == "" || q.Batch == d.BatchID) &&
		(q.Client == "" || q.Client == d.Client) &&
		(q.Since.IsZero() || !d.FailedAt.Before(q.Since)) &&
		(q.Until.IsZero() || d.FailedAt.Before(q.Until))
}

func checkPage(list string, limit int, cursor string, texts ...string) (int, *Cursor, error) {
	for _, text := range texts {
		if !isText(text) {
			return 0, nil, Invalid([]FieldError{{"query", "must be UTF-8 without NUL"}})
		}
	}
	if limit == 0 {
		limit = DefaultPage
	}
	if limit < 1 || limit > MaxPage {
		return 0, nil, Invalid([]FieldError{{"limit", fmt.Sprintf("is %d; it must be 1 to %d", limit, MaxPage)}})
	}
	if cursor == "" {
		return limit, nil, nil
	}
	c, ok := parseCursor(list, cursor)
	if !ok {
		return 0, nil, Invalid([]FieldError{{"cursor", "is not one that this list gave; leave it out to start from the newest"}})
	}
	return limit, &c, nil
}

// Cursor is a place in a list that is ordered by time, then id, descending:
// just after the entry that it names.
type Cursor struct {
	At time.Time
	ID ID
}

// Cursor is the place after e in a list of evaluations.
func (e Evaluation) Cursor() string { return Cursor{e.CreatedAt, e.ID}.encode("evaluations") }

// Cursor is the place after d in a list of dead letters.
func (d DeadLetter) Cursor() string { return Cursor{d.FailedAt, d.ID}.encode("dead_letters") }

// Before reports whether the cursor stands before an entry with this time and
// id, so that the entry is still to come.
func (c Cursor) Before(at time.Time, id ID) bool {
	return at.Before(c.At) || at.Equal(c.At) && id < c.ID
}

func (c Cursor) encode(list string) string {
	return base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, "%s/%d/%s", list, c.At.UnixMicro(), c.ID))
}

func parseCursor(list, s string) (Cursor, bool) {
	raw, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil || !isText(string(raw)) {
		return Cursor{}, false
	}
	rest, found := strings.CutPrefix(string(raw), list+"/")
	micros, id, cut := strings.Cut(rest, "/")
	n, err := strconv.ParseInt(micros, 10, 64)
	if !found || !cut || err != nil {
		return Cursor{}, false
	}
	c := Cursor{time.UnixMicro(n).UTC(), ID(id)}
	return c, c.encode(list) == s
}

// CheckRange checks what Blobs.Open is asked for. KindInvalid: not a digest,
// or an offset before the beginning.
func CheckRange(digest string, offset int64) error {
	valid := len(digest) == 64 && strings.Trim(digest, "0123456789abcdef") == ""
	switch {
	case !valid:
		return Errorf(KindInvalid, "%q is not a digest: it has 64 lower-case hexadecimal digits", digest)
	case offset < 0:
		return Errorf(KindInvalid, "offset %d lies before the beginning", offset)
	}
	return nil
}

// NoBlob is the error for content that is not there.
func NoBlob(digest string) error { return Errorf(KindNotFound, "there is no blob %s", digest) }
