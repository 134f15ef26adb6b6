package sqlstore

import (
	"context"
	"database/sql"
	"slices"
	"strings"
	"time"

	"github.com/crucible-eval/crucible/pkg/eval"
)

// Get implements [eval.Reader].
func (s *Store) Get(ctx context.Context, key eval.Key) (e eval.Evaluation, err error) {
	if !key.Plausible() {
		return e, key.Missing()
	}
	found := false
	err = s.look(ctx, func(r *sql.Rows) (err error) {
		found = true
		e, err = scanEvaluation(r)
		return err
	}, selectWhole+thisOne, key.Project, string(key.ID))
	if err == nil && !found {
		err = key.Missing()
	}
	return e, err
}

// where collects conditions and their values.
type where struct {
	conditions []string
	values     []any
}

func (w *where) and(condition string, values ...any) {
	w.conditions = append(w.conditions, condition)
	w.values = append(w.values, values...)
}

func (w *where) String() string { return " WHERE " + strings.Join(w.conditions, " AND ") }

// hasTag is the condition that evaluation e has a tag.
const hasTag = "EXISTS (SELECT 1 FROM tags t WHERE t.project_id = e.project_id AND t.tag = ? AND t.created_at = e.created_at AND t.evaluation_id = e.id)"

// List implements [eval.Reader].
func (s *Store) List(ctx context.Context, q eval.Query) (eval.Page, error) {
	q, cursor, err := q.Check()
	if err != nil {
		return eval.Page{}, err
	}
	var w where
	w.and("e.project_id = ?", q.Project)
	if len(q.Status) > 0 {
		w.and("e.status IN ?", q.Status)
	}
	if len(q.Verdict) > 0 {
		w.and("e.verdict IN ?", q.Verdict)
		if !slices.Contains(q.Verdict, "") {
			w.and("e.verdict <> ''") // as the index says it
		}
	}
	if q.Language != "" {
		w.and("e.language = ?", q.Language)
	}
	if q.Batch != "" {
		w.and("e.batch_id = ? AND e.batch_id <> ''", q.Batch)
	}
	if q.Client != "" {
		w.and("e.client = ?", q.Client)
	}
	if q.Tag != "" {
		w.and(hasTag, q.Tag)
	}
	if !q.Since.IsZero() {
		w.and("e.created_at >= ?", ceiling(q.Since))
	}
	if !q.Until.IsZero() {
		w.and("e.created_at < ?", ceiling(q.Until))
	}
	if cursor != nil {
		w.and("(e.created_at, e.id) < (?, ?)", cursor.At.UnixMicro(), string(cursor.ID))
	}
	page := eval.Page{Evaluations: []eval.Evaluation{}}
	err = s.look(ctx, func(r *sql.Rows) error {
		if len(page.Evaluations) == q.Limit {
			page.Next = page.Evaluations[q.Limit-1].Cursor()
			return nil
		}
		e, err := scanEvaluation(r)
		page.Evaluations = append(page.Evaluations, e)
		return err
	}, selectSummary+w.String()+" ORDER BY e.created_at DESC, e.id DESC LIMIT ?", append(w.values, q.Limit+1)...)
	if err != nil {
		return eval.Page{}, err
	}
	return page, nil
}

// ceiling is t in microseconds, rounded up, so that whole microseconds compare
// with it as with t.
func ceiling(t time.Time) int64 { return t.Add(time.Microsecond - 1).UnixMicro() }

// Events implements [eval.Reader].
func (s *Store) Events(ctx context.Context, key eval.Key, after int64, limit int) ([]eval.Event, error) {
	if !key.Plausible() {
		return nil, nil
	}
	return s.events(ctx, " WHERE project_id = ? AND evaluation_id = ? AND seq > ? ORDER BY seq LIMIT ?", key.Project, string(key.ID), after, max(limit, 0))
}

// Feed implements [eval.Reader].
func (s *Store) Feed(ctx context.Context, project string, after int64, limit int) ([]eval.Event, error) {
	if !(eval.Key{Project: project}).Plausible() {
		return nil, nil
	}
	if after < 0 {
		return s.events(ctx, " WHERE project_id = ?"+s.dialect.fence+" ORDER BY cursor DESC LIMIT ?", project, min(max(limit, 0), 1))
	}
	return s.events(ctx, " WHERE project_id = ? AND cursor > ?"+s.dialect.fence+" ORDER BY cursor LIMIT ?", project, after, max(limit, 0))
}

func (s *Store) events(ctx context.Context, which string, args ...any) (events []eval.Event, err error) {
	err = s.look(ctx, func(r *sql.Rows) error {
		e, err := scanEvent(r)
		events = append(events, e)
		return err
	}, "SELECT cursor, "+eventColumns+" FROM evaluation_events"+which, args...)
	return events, err
}

// Attempts implements [eval.Reader].
func (s *Store) Attempts(ctx context.Context, key eval.Key) (attempts []eval.Attempt, err error) {
	if !key.Plausible() {
		return nil, nil
	}
	err = s.look(ctx, func(r *sql.Rows) error {
		a, err := scanAttempt(r)
		attempts = append(attempts, a)
		return err
	}, "SELECT "+attemptColumns+" FROM attempts WHERE project_id = ? AND evaluation_id = ? ORDER BY number", key.Project, string(key.ID))
	return attempts, err
}

// Clients implements [eval.Reader].
func (s *Store) Clients(ctx context.Context, project string) ([]eval.ClientCount, error) {
	all := []eval.ClientCount{}
	if !(eval.Key{Project: project}).Plausible() {
		return all, nil
	}
	err := s.look(ctx, func(r *sql.Rows) error {
		var (
			client string
			status eval.Status
			n      int64
		)
		if err := r.Scan(&client, &status, &n); err != nil {
			return err
		}
		if len(all) == 0 || all[len(all)-1].Client != client {
			all = append(all, eval.ClientCount{Client: client})
		}
		if u := &all[len(all)-1]; status == eval.Queued {
			u.Queued = n
		} else {
			u.Running = n
		}
		return nil
	}, "SELECT client, status, count(*) FROM evaluations WHERE project_id = ? AND status IN ('queued', 'running')"+
		" GROUP BY client, status ORDER BY client", project)
	return all, err
}

// Stats implements [eval.Reader].
func (s *Store) Stats(ctx context.Context, project string) (eval.Stats, error) {
	stats := eval.Stats{Statuses: map[eval.Status]int64{}, Verdicts: map[eval.Verdict]int64{}, DeadLettersByKind: map[eval.Kind]int64{}}
	for _, status := range eval.Statuses() {
		stats.Statuses[status] = 0
	}
	if !(eval.Key{Project: project}).Plausible() {
		return stats, nil
	}
	err := s.look(ctx, func(r *sql.Rows) error {
		var (
			what, value string
			n           int64
		)
		if err := r.Scan(&what, &value, &n); err != nil {
			return err
		}
		switch what {
		case "status":
			stats.Statuses[eval.Status(value)] = n
		case "verdict":
			stats.Verdicts[eval.Verdict(value)] = n
		case "dead":
			stats.DeadLetters += n
			stats.DeadLettersByKind[eval.Kind(value)] = n
		case "oldest":
			at := fromMicros(n)
			stats.OldestQueuedAt = &at
		}
		return nil
	}, "SELECT 'status', status, count(*) FROM evaluations WHERE project_id = ? GROUP BY status"+
		" UNION ALL SELECT 'verdict', verdict, count(*) FROM evaluations WHERE project_id = ? AND verdict <> '' GROUP BY verdict"+
		" UNION ALL SELECT 'dead', failure_kind, count(*) FROM dead_letters WHERE project_id = ? GROUP BY failure_kind"+
		" UNION ALL SELECT 'oldest', '', oldest FROM (SELECT min(created_at) AS oldest FROM evaluations"+
		" WHERE project_id = ? AND status = 'queued' AND (run_at IS NULL OR run_at <= ?)) AS queued WHERE oldest IS NOT NULL",
		project, project, project, project, s.now().UnixMicro())
	return stats, err
}

// backlog counts as [eval.Backlog.Add] does. A queued row waits in the line
// or has a next_dispatch_at, and every running one has a lease_until: asking
// for them lets the partial indexes be used, however many rows have ended.
const backlog = `WITH active AS (
	SELECT priority, client, attempt, COALESCE(dispatched_at, next_dispatch_at) AS tried_at, created_at, run_at,
		CASE WHEN run_at > ? OR dispatched_at IS NULL AND next_dispatch_at > ? THEN 'later'
			WHEN dispatched_at IS NOT NULL THEN 'dispatched'
			ELSE 'stored' END AS state
	FROM evaluations WHERE status = 'queued' AND next_dispatch_at > 0
	UNION ALL
	SELECT priority, client, attempt, updated_at, created_at, run_at, 'stored'
	FROM evaluations WHERE ` + inLine + `
	UNION ALL
	SELECT priority, client, attempt, NULL, created_at, run_at, 'running'
	FROM evaluations WHERE status = 'running' AND lease_until > 0)
SELECT priority, sum(CASE state WHEN 'stored' THEN 1 ELSE 0 END), sum(CASE state WHEN 'dispatched' THEN 1 ELSE 0 END),
	sum(CASE state WHEN 'later' THEN 1 ELSE 0 END), sum(CASE state WHEN 'running' THEN 1 ELSE 0 END),
	min(CASE WHEN state NOT IN ('stored', 'dispatched') THEN NULL
		WHEN attempt > 0 THEN tried_at
		WHEN run_at > created_at THEN run_at
		ELSE created_at END),
	(SELECT count(DISTINCT client) FROM active WHERE state IN ('stored', 'dispatched'))
FROM active GROUP BY priority`

// Backlog implements [eval.Scheduler].
func (s *Store) Backlog(ctx context.Context) (eval.Backlog, error) {
	b := eval.NewBacklog(s.now())
	now := b.At.UnixMicro()
	err := s.look(ctx, func(r *sql.Rows) error {
		var (
			w      eval.Waiting
			oldest *int64
		)
		if err := r.Scan(&w.Priority, &w.Stored, &w.Dispatched, &w.Later, &w.Running, &oldest, &b.Clients); err != nil {
			return err
		}
		if oldest != nil {
			at := fromMicros(*oldest)
			w.Since = &at
		}
		b.Set(w)
		return nil
	}, backlog, now, now)
	if err != nil {
		return b, err
	}
	err = s.look(ctx, func(r *sql.Rows) error {
		var (
			kind eval.Kind
			n    int64
		)
		err := r.Scan(&kind, &n)
		b.DeadLetters[kind] = n
		return err
	}, "SELECT failure_kind, count(*) FROM dead_letters GROUP BY failure_kind")
	return b, err
}

// Size is how many bytes the database takes.
func (s *Store) Size(ctx context.Context) (*int64, error) {
	query := "SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()"
	if s.dialect.name == postgresDialect.name {
		query = "SELECT pg_database_size(current_database())"
	}
	var n int64
	err := s.look(ctx, func(r *sql.Rows) error { return r.Scan(&n) }, query)
	return &n, err
}
