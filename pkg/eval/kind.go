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

// Meaning says in words what becomes of an evaluation.
func (r Retry) Meaning() string {
	switch r {
	case RetryCounted:
		return "queued again by its retry policy; failed when the tries are used up"
	case RetryLater:
		return "queued again after a while, not counted as a try"
	case RetryAtOnce:
		return "queued again now, not counted as a try"
	default:
		return "failed at once: the same again would fail the same way"
	}
}

// KindInfo is a row of the table of kinds.
type KindInfo struct {
	Kind   Kind
	Status int    // HTTP status
	Title  string // for people
	Retry  Retry
	What   string // what has happened, for people
	Do     string // what they can do about it
}

// Kinds is the one table: an error's kind, its HTTP status, its title,
// whether an evaluation that met it may run again, and what to do about it.
// docs/errors.md is made of it.
func Kinds() []KindInfo { return kinds }

var kinds = []KindInfo{
	{KindInvalid, 400, "The request is not valid", RetryNever,
		"A field, a parameter or a header is wrong; `errors` names each. An evaluation that failed with it asked for what its executor does not have, such as another version of the language.",
		"Correct what is named and send it again. `GET /openapi.yaml` has the form, `GET /api/v1/limits` what is granted, `GET /api/v1/languages` what there is."},
	{KindUnauthorized, 401, "Credentials are missing or wrong", RetryNever,
		"The server has API keys, and the request came without one or with one that is not known.",
		"Send `Authorization: Bearer KEY` (`--token` or `CRUCIBLE_TOKEN` on the command line) with a key from the server's `--api-key`."},
	{KindForbidden, 403, "Not allowed", RetryNever,
		"The request came from a web page of another site, or for a host name that this server does not answer to; or the monitor is read-only.",
		"Use the server's own address, or add the name with `--allowed-host`."},
	{KindNotFound, 404, "Not found", RetryNever,
		"There is no such evaluation, stream, artifact, queue or path. It may have been swept after its retention time.",
		"Check the id; `GET /api/v1/evaluations` lists what there is, `GET /docs` the paths."},
	{KindMethod, 405, "Method not allowed", RetryNever,
		"The path is there, and does not answer to this method.",
		"Use one of those that the `Allow` header names."},
	{KindConflict, 409, "The state does not allow this", RetryNever,
		"The evaluation has moved on: it has ended already, or has not failed; `evaluation_status` says what it is.",
		"Read it again with `GET /api/v1/evaluations/{id}` and decide anew. A submission with an id that is taken needs another."},
	{KindLeaseLost, 409, "The lease is lost", RetryNever,
		"Between services: another attempt holds the evaluation, so that the outcome of this one is dropped.",
		"Nothing: the other attempt brings it to its end. Often seen, it says that workers stall for longer than `--lease`."},
	{KindTooLarge, 413, "The request is too large", RetryNever,
		"The body is longer than what is read here.",
		"Send less, or several batches; the message has the limit."},
	{KindMediaType, 415, "Unsupported media type", RetryNever,
		"The body is not JSON, or says that it is something else.",
		"Send `Content-Type: application/json`."},
	{KindKeyReused, 422, "The idempotency key was used with another request", RetryNever,
		"The `Idempotency-Key` came within the last day with a body that was not the same.",
		"Use a new key for a new request; keep the body byte for byte when you repeat one."},
	{KindRateLimited, 429, "Too many requests", RetryLater,
		"This client sends too fast, or has too much queued; the message says which limit it was.",
		"Come back after `Retry-After`, or ask the operator for more."},
	{KindInternal, 500, "Internal error", RetryCounted,
		"A bug, or something nobody thought of.",
		"Try again; if it stays, the log of the service has the details, under the time and the path of the request. Please report it."},
	{KindSandbox, 500, "The sandbox failed", RetryCounted,
		"The sandbox could not start, or broke; it was not the program's doing.",
		"Nothing at first: it is tried again, and the executor proves its sandbox anew. If it stays, run `crucible doctor` on the executor's machine."},
	{KindPoison, 500, "The evaluation took its worker or executor down", RetryNever,
		"Workers or executors vanished again and again while they ran this program, also when it ran alone there.",
		"Look at `crucible timeline ID` and at the log of the machine that it ran on (memory, disk, kernel) before you retry it."},
	{KindFull, 503, "No free slot", RetryLater,
		"All slots, waits or streams are taken at this moment.",
		"Come back after `Retry-After`. Evaluations wait by themselves; more executors or `--slots` make it shorter."},
	{KindUnavailable, 503, "Unavailable", RetryCounted,
		"A part of the platform could not be reached: storage, Redis or an executor; or it did not answer in time.",
		"Try again in a moment: what was accepted is not lost. `crucible status` shows which part is away, and `/readyz` of each service why."},
	{KindIsolation, 503, "Isolation is weaker than asked for", RetryCounted,
		"No executor isolates as strongly as `min_isolation` asks.",
		"Ask for a level that `GET /api/v1/isolation` offers, or start an executor that has it; `crucible doctor` says what a machine lacks."},
	{KindStopping, 503, "Shutting down", RetryAtOnce,
		"This service is being stopped or restarted.",
		"Send it again: another instance, or the next one, answers. What runs is brought to its end or given back."},
	{KindWorkerLost, 503, "The worker was lost", RetryAtOnce,
		"The worker stopped renewing its lease: it was killed, or was cut off from the storage.",
		"Nothing: another one takes the evaluation. `crucible workers` shows who is lost, for 15 minutes."},
	{KindExecutorLost, 503, "The executor was lost", RetryCounted,
		"The executor vanished in the middle of the run: it was killed, or the connection was cut.",
		"Nothing at first: it runs again, alone, so that nobody else is harmed if it was the program's doing. `crucible executors` shows who is away."},
	{KindExpired, 504, "The deadline has passed", RetryNever,
		"The evaluation had not ended within its `expires_in`.",
		"Give it more time, or submit it when there is less waiting (`crucible queues`)."},
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
	Do         string        // what can be done, as the service said that the error came from
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
