package eval

import (
	"errors"
	"fmt"
	"time"
)

// Kind sorts errors by what a caller can do about them. It survives the wire
// (package problem), and one table says what each means.
type Kind string

const (
	KindInvalid      Kind = "invalid"              // the request is wrong; Fields says where
	KindUnauthorized Kind = "unauthorized"         // no credentials, or wrong ones
	KindForbidden    Kind = "forbidden"            // known, and not allowed
	KindNotFound     Kind = "not_found"            // no such thing
	KindMethod       Kind = "method_not_allowed"   // the path does not answer to this method
	KindConflict     Kind = "conflict"             // the state does not allow it
	KindLeaseLost    Kind = "lease_lost"           // another attempt holds the evaluation, or none does
	KindTooLarge     Kind = "too_large"            // the body exceeds its limit
	KindMediaType    Kind = "unsupported_media"    // the body is not what is read here
	KindKeyReused    Kind = "idempotency_mismatch" // the key came before with another body
	KindRateLimited  Kind = "rate_limited"         // slow down; RetryAfter says when
	KindFull         Kind = "full"                 // no free slot; RetryAfter says when
	KindUnavailable  Kind = "unavailable"          // a part of the platform cannot be reached
	KindIsolation    Kind = "isolation"            // the sandbox is weaker than asked for
	KindSandbox      Kind = "sandbox"              // the sandbox could not start or broke; not the program's doing
	KindStopping     Kind = "stopping"             // this service is shutting down
	KindWorkerLost   Kind = "worker_lost"          // the worker vanished, or could not renew its lease
	KindExecutorLost Kind = "executor_lost"        // the executor vanished in the middle of a run
	KindExpired      Kind = "expired"              // its deadline, expires_in, has passed
	KindPoison       Kind = "poison"               // the evaluation took its worker or executor down too often
	KindInternal     Kind = "internal"             // a bug, or something nobody thought of
)

// Retry says what a kind of failure means for an evaluation that met it.
type Retry string

const (
	RetryNever   Retry = "never"   // the same again would fail the same way
	RetryCounted Retry = "counted" // try again by the evaluation's retry policy
	RetryLater   Retry = "later"   // try again by policy quota_exceeded, not counted as a try
	RetryAtOnce  Retry = "at_once" // try again now, not counted as a try
)

// KindInfo is a row of the table of kinds.
type KindInfo struct {
	Kind   Kind
	Status int    // HTTP status
	Title  string // for people
	Retry  Retry
}

// Kinds is the one table: an error's kind, its HTTP status, its title, and
// whether an evaluation that met it may run again.
func Kinds() []KindInfo { return kinds }

var kinds = []KindInfo{
	{KindInvalid, 400, "The request is not valid", RetryNever},
	{KindUnauthorized, 401, "Credentials are missing or wrong", RetryNever},
	{KindForbidden, 403, "Not allowed", RetryNever},
	{KindNotFound, 404, "Not found", RetryNever},
	{KindMethod, 405, "Method not allowed", RetryNever},
	{KindConflict, 409, "The state does not allow this", RetryNever},
	{KindLeaseLost, 409, "The lease is lost", RetryNever},
	{KindTooLarge, 413, "The request is too large", RetryNever},
	{KindMediaType, 415, "Unsupported media type", RetryNever},
	{KindKeyReused, 422, "The idempotency key was used with another request", RetryNever},
	{KindRateLimited, 429, "Too many requests", RetryLater},
	{KindInternal, 500, "Internal error", RetryCounted},
	{KindSandbox, 500, "The sandbox failed", RetryCounted},
	{KindPoison, 500, "The evaluation took its worker or executor down", RetryNever},
	{KindFull, 503, "No free slot", RetryLater},
	{KindUnavailable, 503, "Unavailable", RetryCounted},
	{KindIsolation, 503, "Isolation is weaker than asked for", RetryCounted},
	{KindStopping, 503, "Shutting down", RetryAtOnce},
	{KindWorkerLost, 503, "The worker was lost", RetryAtOnce},
	{KindExecutorLost, 503, "The executor was lost", RetryCounted},
	{KindExpired, 504, "The deadline has passed", RetryNever},
}

var kindByName = func() map[Kind]KindInfo {
	m := make(map[Kind]KindInfo, len(kinds))
	for _, k := range kinds {
		m[k.Kind] = k
	}
	return m
}()

// Info returns the kind's row; an unknown kind is internal.
func (k Kind) Info() KindInfo {
	if info, ok := kindByName[k]; ok {
		return info
	}
	return kindByName[KindInternal]
}

// FieldError names one wrong field of a request.
type FieldError struct {
	Field   string `json:"field"`   // path in the request, such as evaluations[3].limits.wall_ms
	Message string `json:"message"` // what is wrong, and what would be right
}

// Error is an error with a kind. Message is for users; Err, the cause, is for
// operators and never crosses the wire.
type Error struct {
	Kind       Kind
	Message    string
	Fields     []FieldError
	Status     Status        // with KindConflict: the evaluation's status
	RetryAfter time.Duration // when to come back; 0: not said
	Err        error
}

func (e *Error) Error() string {
	msg := e.Message
	if msg == "" {
		msg = e.Kind.Info().Title
	}
	for _, f := range e.Fields {
		msg += fmt.Sprintf("; %s %s", f.Field, f.Message)
	}
	if e.Err != nil {
		msg += ": " + e.Err.Error()
	}
	return msg
}

func (e *Error) Unwrap() error { return e.Err }

// Errorf makes an error of a kind. A %w in the format becomes its cause and
// is left out of what users see.
func Errorf(kind Kind, format string, args ...any) *Error {
	full := fmt.Errorf(format, args...)
	e := &Error{Kind: kind, Message: full.Error(), Err: errors.Unwrap(full)}
	if e.Err != nil {
		e.Message = trimCause(e.Message, e.Err.Error())
	}
	return e
}

func trimCause(msg, cause string) string {
	if n := len(msg) - len(cause); n > 0 && msg[n:] == cause {
		for n > 0 && (msg[n-1] == ' ' || msg[n-1] == ':') {
			n--
		}
		return msg[:n]
	}
	return msg
}

// KindOf returns the kind of err: KindInternal when it has none, "" for nil.
func KindOf(err error) Kind {
	if err == nil {
		return ""
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Kind
	}
	return KindInternal
}

// IsKind reports whether err is of the kind.
func IsKind(err error, kind Kind) bool { return err != nil && KindOf(err) == kind }

// Invalid makes the error for wrong fields, or nil when there are none.
func Invalid(fields []FieldError) error {
	if len(fields) == 0 {
		return nil
	}
	return &Error{Kind: KindInvalid, Message: "the request is not valid", Fields: fields}
}
