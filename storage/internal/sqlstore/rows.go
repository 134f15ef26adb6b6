package sqlstore

import (
	"database/sql"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/crucible-eval/crucible/pkg/eval"
)

// The columns of an evaluation. The two last of a SELECT are its spec and its
// result: as lists show them, or whole.
const (
	constantColumns = "project_id, id, batch_id, retry_of, language, priority, run_at, created_at, trace, client, expires_at, turn, spec_summary"
	changingColumns = "status, verdict, cause, failure_kind, failure_message, reason, attempt, tries, refused, lost, lost_alone, dispatch_seq, " +
		"event_seq, worker, executor, updated_at, started_at, finished_at, next_dispatch_at, dispatched_at, lease_until, " +
		"cancel_requested_at, result_summary, result"

	selected = "SELECT e.project_id, e.id, e.batch_id, e.retry_of, e.created_at, e.trace, e.client, e.expires_at, e.turn, e.status, e.verdict, e.cause, " +
		"e.failure_kind, e.failure_message, e.reason, e.attempt, e.tries, e.refused, e.lost, e.lost_alone, e.dispatch_seq, e.event_seq, e.worker, " +
		"e.executor, e.updated_at, e.started_at, e.finished_at, e.next_dispatch_at, e.dispatched_at, e.lease_until, e.cancel_requested_at, "
	selectSummary = selected + "e.spec_summary, e.result_summary FROM evaluations e"
	selectWhole   = selected + "p.spec, e.result FROM evaluations e " +
		"JOIN programs p ON p.project_id = e.project_id AND p.evaluation_id = e.id"
	thisOne  = " WHERE e.project_id = ? AND e.id = ?"
	itsRetry = " WHERE e.project_id = ? AND e.retry_of = ? AND e.retry_of <> ''" // as the index says it
)

var (
	insertEvaluations = "INSERT INTO evaluations (" + constantColumns + ", " + changingColumns + ") VALUES "
	updateEvaluation  = "UPDATE evaluations SET " + strings.ReplaceAll(changingColumns, ",", " = ?,") + " = ?" +
		" WHERE project_id = ? AND id = ? AND status = ? AND attempt = ?"
	evaluationMarks = marks(strings.Count(constantColumns+","+changingColumns, ",") + 1)
)

// marks is "(?, ?, ... )" for n values.
func marks(n int) string { return "(" + strings.TrimSuffix(strings.Repeat("?, ", n), ", ") + ")" }

// tuples is n times one, for a statement that writes many rows.
func tuples(one string, n int) string {
	return strings.TrimSuffix(strings.Repeat(one+", ", n), ", ")
}

func scanEvaluation(r *sql.Rows) (eval.Evaluation, error) {
	var (
		e                eval.Evaluation
		f                eval.Failure
		spec             []byte
		result           []byte
		created, updated int64
	)
	err := r.Scan(&e.Project, &e.ID, &e.BatchID, &e.RetryOf, &created, &e.Trace, &e.Client, moment{&e.ExpiresAt}, &e.Turn, &e.Status, &e.Verdict, &e.Cause,
		&f.Kind, &f.Message, &e.Reason, &e.Attempt, &e.Tries, &e.Refused, &e.Lost, &e.LostAlone, &e.DispatchSeq, &e.EventSeq, &e.Worker,
		&e.Executor, &updated, moment{&e.StartedAt}, moment{&e.FinishedAt}, moment{&e.NextDispatchAt},
		moment{&e.DispatchedAt}, moment{&e.LeaseUntil}, moment{&e.CancelRequestedAt}, &spec, &result)
	if err != nil {
		return e, err
	}
	e.CreatedAt, e.UpdatedAt = fromMicros(created), fromMicros(updated)
	if f.Kind != "" {
		e.Failure = &f
	}
	if err := json.Unmarshal(spec, &e.Spec); err != nil {
		return e, fmt.Errorf("spec of evaluation %s: %w", e.ID, err)
	}
	if result != nil {
		e.Result = new(eval.Result)
		if err := json.Unmarshal(result, e.Result); err != nil {
			return e, fmt.Errorf("result of evaluation %s: %w", e.ID, err)
		}
	}
	return e, nil
}

// constantValues are the values of constantColumns.
func constantValues(e eval.Evaluation) ([]any, error) {
	summary, err := json.Marshal(e.Summary().Spec)
	if err != nil {
		return nil, err
	}
	return []any{e.Project, string(e.ID), e.BatchID, string(e.RetryOf), e.Spec.Language, string(e.Spec.Priority),
		micros(e.Spec.RunAt), e.CreatedAt.UnixMicro(), e.Trace, e.Client, micros(e.ExpiresAt), e.Turn, string(summary)}, nil
}

// changingValues are the values of changingColumns.
func changingValues(e eval.Evaluation) ([]any, error) {
	kind, message := failure(e.Failure)
	var summary, result any
	if e.Result != nil {
		short, err := json.Marshal(e.Summary().Result)
		if err != nil {
			return nil, err
		}
		whole, err := json.Marshal(e.Result)
		if err != nil {
			return nil, err
		}
		summary, result = string(short), string(whole)
	}
	return []any{string(e.Status), string(e.Verdict), string(e.Cause), kind, message, text(e.Reason), e.Attempt, e.Tries,
		e.Refused, e.Lost, e.LostAlone, e.DispatchSeq, e.EventSeq, text(e.Worker), text(e.Executor), e.UpdatedAt.UnixMicro(), micros(e.StartedAt),
		micros(e.FinishedAt), micros(e.NextDispatchAt), micros(e.DispatchedAt), micros(e.LeaseUntil), micros(e.CancelRequestedAt), summary, result}, nil
}

func failure(f *eval.Failure) (kind, message string) {
	if f == nil {
		return "", ""
	}
	return text(string(f.Kind)), text(f.Message)
}

// text makes s fit for a column: words for people may come with bytes that
// PostgreSQL refuses.
func text(s string) string {
	return strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
}

func fromMicros(n int64) time.Time { return time.UnixMicro(n).UTC() }

func micros(t *time.Time) any {
	if t == nil {
		return nil
	}
	return t.UnixMicro()
}

// moment scans a column of microseconds that may be NULL.
type moment struct{ at **time.Time }

func (m moment) Scan(v any) error {
	switch v := v.(type) {
	case nil:
		*m.at = nil
	case int64:
		t := fromMicros(v)
		*m.at = &t
	default:
		return fmt.Errorf("a time is stored as %T instead of microseconds", v)
	}
	return nil
}

const attemptColumns = "project_id, evaluation_id, number, worker, executor, started_at, finished_at, outcome, " +
	"failure_kind, failure_message, alone, counted, next_try_at, wall_ms, cpu_ms, memory_peak_bytes"

var upsertAttempt = "INSERT INTO attempts (" + attemptColumns + ") VALUES " + marks(strings.Count(attemptColumns, ",")+1) +
	" ON CONFLICT (project_id, evaluation_id, number) DO UPDATE SET executor = excluded.executor, " +
	"finished_at = excluded.finished_at, outcome = excluded.outcome, failure_kind = excluded.failure_kind, " +
	"failure_message = excluded.failure_message, counted = excluded.counted, next_try_at = excluded.next_try_at, wall_ms = excluded.wall_ms, cpu_ms = excluded.cpu_ms, " +
	"memory_peak_bytes = excluded.memory_peak_bytes"

func attemptValues(a eval.Attempt) []any {
	kind, message := failure(a.Failure)
	return []any{a.Project, string(a.ID), a.Number, text(a.Worker), text(a.Executor), a.StartedAt.UnixMicro(), micros(a.FinishedAt),
		string(a.Outcome), kind, message, a.Alone, a.Counted, micros(a.NextTryAt), a.WallMS, a.CPUMS, a.MemoryPeak}
}

func scanAttempt(r *sql.Rows) (eval.Attempt, error) {
	var (
		a       eval.Attempt
		f       eval.Failure
		started int64
	)
	err := r.Scan(&a.Project, &a.ID, &a.Number, &a.Worker, &a.Executor, &started, moment{&a.FinishedAt}, &a.Outcome,
		&f.Kind, &f.Message, &a.Alone, &a.Counted, moment{&a.NextTryAt}, &a.WallMS, &a.CPUMS, &a.MemoryPeak)
	a.StartedAt = fromMicros(started)
	if f.Kind != "" {
		a.Failure = &f
	}
	return a, err
}

const eventColumns = "project_id, evaluation_id, seq, type, status, verdict, cause, attempt, at, worker, message"

var eventMarks = strings.TrimPrefix(marks(strings.Count(eventColumns, ",")+1), "(")

func eventValues(e *eval.Event) []any {
	return []any{e.Project, string(e.ID), e.Seq, string(e.Type), string(e.Status), string(e.Verdict), string(e.Cause),
		e.Attempt, e.At.UnixMicro(), text(e.Worker), text(e.Message)}
}

func scanEvent(r *sql.Rows) (eval.Event, error) {
	var (
		e  eval.Event
		at int64
	)
	err := r.Scan(&e.Cursor, &e.Project, &e.ID, &e.Seq, &e.Type, &e.Status, &e.Verdict, &e.Cause, &e.Attempt, &at, &e.Worker, &e.Message)
	e.At = fromMicros(at)
	return e, err
}
