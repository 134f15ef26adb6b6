package sqlstore

import (
	"cmp"
	"context"
	"database/sql"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/crucible-eval/crucible/pkg/eval"
)

// The states of a queued evaluation, see package eval's fair.go. Each has an
// index of its own, so that what is asked here costs the same however many
// wait: evaluations_line, evaluations_flows, evaluations_dispatched and
// evaluations_due.
const (
	inLine     = "status = 'queued' AND next_dispatch_at IS NULL"
	dispatched = "status = 'queued' AND dispatched_at IS NOT NULL"
	timeCame   = "status = 'queued' AND next_dispatch_at <= ?"
	runs       = "status IN ('queued', 'running') AND status = 'running'" // as evaluations_clients says it

	// inQueue counts those of one priority in the queue, up to a bound.
	inQueue = "(SELECT count(*) FROM (SELECT 1 FROM evaluations WHERE " + dispatched + " AND priority = ? LIMIT #) AS counted)"
	// held counts those of a client that run or wait in the queue, up to twice a bound.
	held = "(SELECT count(*) FROM (SELECT 1 FROM evaluations WHERE " + runs + " AND project_id = f.project_id AND client = f.client LIMIT #) AS counted) + " +
		"(SELECT count(*) FROM (SELECT 1 FROM evaluations WHERE " + dispatched + " AND project_id = f.project_id AND client = f.client LIMIT #) AS counted)"
	leastWaiting = "(SELECT turn FROM evaluations WHERE " + inLine + " AND priority = ? ORDER BY turn LIMIT 1)"

	selectStanding = "SELECT " + inQueue +
		", COALESCE((SELECT turn FROM evaluations WHERE " + dispatched + " AND priority = ? ORDER BY turn DESC LIMIT 1), 0)" +
		", COALESCE(" + leastWaiting + ", 0)" +
		", COALESCE((SELECT turn FROM evaluations WHERE " + inLine + " AND priority = ? AND project_id = ? AND client = ? ORDER BY turn DESC LIMIT 1), 0)"

	dueColumns = "project_id, id, client, dispatch_seq, priority, run_at, created_at, trace, lost, turn, dispatched_at"
	selectDue  = "SELECT " + dueColumns + " FROM evaluations WHERE "

	selectCame  = selectDue + timeCame + " ORDER BY next_dispatch_at, id LIMIT #"
	selectNext  = selectDue + inLine + " AND priority = ? ORDER BY turn, id LIMIT #"
	selectHeads = selectDue + inLine + " AND priority = ? AND project_id = ? AND client = ? ORDER BY turn, id LIMIT #"
)

// limit writes how many are asked for into a statement. As a value it would be
// unknown to a plan that PostgreSQL makes for all values; it then expects a
// tenth of all rows and sorts those that wait.
func limit(statement string, n int) string {
	return strings.ReplaceAll(statement, "LIMIT #", "LIMIT "+strconv.Itoa(n))
}

func scanDue(r *sql.Rows) (eval.Evaluation, error) {
	e := eval.Evaluation{Status: eval.Queued}
	var created int64
	err := r.Scan(&e.Project, &e.ID, &e.Client, &e.DispatchSeq, &e.Spec.Priority, moment{&e.Spec.RunAt}, &created, &e.Trace, &e.Lost,
		&e.Turn, moment{&e.DispatchedAt})
	e.CreatedAt = fromMicros(created)
	return e, err
}

// lineRules are the rules with the window that is in force: what Due was told last.
func (s *Store) lineRules() eval.Rules {
	r := s.rules
	r.Window = r.InQueue(int(s.window.Load()))
	return r
}

// join gives accepted evaluations their places.
func (t *tx) join(changes []eval.Change) error {
	rules := t.store.lineRules()
	var flows []eval.Flow
	for _, c := range changes {
		if c.Evaluation.InLine() {
			flows = append(flows, c.Evaluation.Flow())
		}
	}
	standing, err := t.standing(flows, rules)
	if err != nil {
		return err
	}
	t.store.given.recall(standing, t.now)
	standing.Join(changes, t.now, rules)
	t.store.given.note(standing, t.now)
	return nil
}

// standing is what those find who join these flows.
func (t *tx) standing(flows []eval.Flow, rules eval.Rules) (eval.Standing, error) {
	s := eval.NewStanding()
	for _, f := range flows {
		if _, known := s.Last[f]; known {
			continue
		}
		p := string(f.Priority)
		err := rows(t.db, func(r *sql.Rows) error {
			var (
				line eval.Line
				last int64
			)
			err := r.Scan(&line.Dispatched, &line.Greatest, &line.Least, &last)
			s.Lines[f.Priority], s.Last[f] = line, last
			return err
		}, limit(selectStanding, rules.Window), p, p, p, p, f.Project, f.Client)
		if err != nil {
			return s, err
		}
		if rules.MaxRunning <= 0 {
			continue
		}
		err = rows(t.db, func(r *sql.Rows) error {
			var n int
			err := r.Scan(&n)
			s.Held[f.Owner] = n
			return err
		}, limit("SELECT "+held+" FROM (SELECT ? AS project_id, ? AS client) AS f", rules.MaxRunning), f.Project, f.Client)
		if err != nil {
			return s, err
		}
	}
	return s, nil
}

// given remembers for a moment which turns this process gave. Transactions
// that accept at the same time do not see each other; without it, a client
// that submits over many connections would get the same turn for several, and
// so more than its share.
type given struct {
	mu   sync.Mutex
	last map[eval.Flow]gift
}

type gift struct {
	turn   int64 // the last
	served int64 // the virtual time then; when it is behind that, the line has begun again
	at     time.Time
}

const (
	givenFor  = 2 * time.Second // longer than most transactions take
	mostGiven = 1024
)

// recall puts what was given into a standing of a line in which somebody waits.
func (g *given) recall(s eval.Standing, now time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for f, last := range s.Last {
		line, was := s.Lines[f.Priority], g.last[f]
		if line.Least > 0 && line.Now() >= was.served && now.Sub(was.at) < givenFor {
			s.Last[f] = max(last, was.turn)
		}
	}
}

func (g *given) note(s eval.Standing, now time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.last) > mostGiven || g.last == nil {
		g.last = map[eval.Flow]gift{}
	}
	for f, last := range s.Last {
		if last > 0 {
			g.last[f] = gift{last, s.Lines[f.Priority].Now(), now}
		}
	}
}

// Due implements [eval.Scheduler].
func (s *Store) Due(ctx context.Context, r eval.DueRequest) ([]eval.Dispatch, error) {
	if r.Window > 0 {
		s.window.Store(int64(r.Window))
	}
	rules := s.lineRules()
	// Mostly there is nothing to do: find that out without taking the lock to write.
	query, values := selectSome(s.now().UnixMicro(), int64(rules.Window))
	some, err := s.any(ctx, query, values...)
	if err != nil || !some || r.Limit <= 0 {
		return nil, err
	}
	var due []eval.Dispatch
	err = s.transact(ctx, func(t *tx) (err error) {
		due, err = t.due(r, rules)
		return err
	})
	if err != nil {
		return nil, err
	}
	return due, nil
}

// selectSome finds a row when somebody's time has come, or somebody waits
// where there is room. The first to come is asked for by the index: of a
// condition on times PostgreSQL expects that a third of all rows meet it, and
// it reads the table then to find one.
func selectSome(now, window int64) (string, []any) {
	conditions := []string{"(SELECT next_dispatch_at FROM evaluations WHERE status = 'queued' AND next_dispatch_at IS NOT NULL ORDER BY next_dispatch_at LIMIT 1) <= ?"}
	values := []any{now}
	for _, p := range eval.Priorities() {
		conditions = append(conditions, leastWaiting+" IS NOT NULL AND "+inQueue+" < ?")
		values = append(values, string(p), string(p), window)
	}
	return limit("SELECT 1 WHERE "+strings.Join(conditions, " OR "), int(window)), values
}

// due hands out first what was dispatched and is looked at again, then whose
// turn it is.
func (t *tx) due(r eval.DueRequest, rules eval.Rules) ([]eval.Dispatch, error) {
	came, err := t.pick(limit(selectCame, r.Limit), t.now.UnixMicro())
	if err != nil {
		return nil, err
	}
	var next, arrived []eval.Evaluation
	for _, e := range came {
		if e.Dispatched() {
			next = append(next, e)
		} else {
			arrived = append(arrived, e)
		}
	}
	if err := t.arrive(arrived, rules); err != nil {
		return nil, err
	}
	feeds, err := t.mayFeed()
	if err != nil {
		return nil, err
	}
	taken := map[eval.Owner]int{}
	for _, p := range eval.Priorities() {
		if !feeds || len(next) >= r.Limit {
			break
		}
		called, err := t.call(p, r.Limit-len(next), rules, taken)
		if err != nil {
			return nil, err
		}
		next = append(next, called...)
	}
	if len(next) == 0 {
		return nil, nil
	}
	out := make([]eval.Dispatch, len(next))
	values := []any{t.now.Add(r.Again).UnixMicro(), t.now.UnixMicro()}
	for i := range next {
		out[i] = rules.Dispatch(&next[i], t.now, r.Again)
		values = append(values, next[i].Project, string(next[i].ID))
	}
	_, err = t.exec("UPDATE evaluations SET next_dispatch_at = ?, dispatched_at = COALESCE(dispatched_at, ?) WHERE (project_id, id) IN (VALUES "+
		tuples(marks(2), len(next))+")", values...)
	return out, err
}

// pick reads evaluations that nobody else is changing, and locks them.
func (t *tx) pick(query string, values ...any) (picked []eval.Evaluation, err error) {
	err = rows(t.db, func(r *sql.Rows) error {
		e, err := scanDue(r)
		picked = append(picked, e)
		return err
	}, query+t.store.dialect.skipLocked, values...)
	return picked, err
}

// arrive puts those into the line whose time has come.
func (t *tx) arrive(arrived []eval.Evaluation, rules eval.Rules) error {
	var flows []eval.Flow
	for _, e := range arrived {
		if e.Turn == 0 {
			flows = append(flows, e.Flow())
		}
	}
	standing, err := t.standing(flows, rules)
	if err != nil {
		return err
	}
	for _, e := range arrived {
		standing.Arrive(&e)
		if _, err := t.exec("UPDATE evaluations SET turn = ?, next_dispatch_at = NULL, dispatched_at = NULL WHERE project_id = ? AND id = ?",
			e.Turn, e.Project, string(e.ID)); err != nil {
			return err
		}
	}
	return nil
}

// mayFeed says whether this transaction is the only one that takes from the
// lines; another one that finds it at work leaves it to that.
func (t *tx) mayFeed() (alone bool, err error) {
	if t.store.dialect.onlyOne == "" {
		return true, nil
	}
	err = rows(t.db, func(r *sql.Rows) error { return r.Scan(&alone) }, t.store.dialect.onlyOne)
	return alone, err
}

// call picks whose turn it is at one priority, as many as there is room for.
// taken counts what this transaction has picked of each client.
func (t *tx) call(p eval.Priority, most int, rules eval.Rules, taken map[eval.Owner]int) ([]eval.Evaluation, error) {
	var waiting int
	err := rows(t.db, func(r *sql.Rows) error { return r.Scan(&waiting) }, limit("SELECT "+inQueue, rules.Window), string(p))
	room := min(rules.Window-waiting, most)
	if err != nil || room <= 0 {
		return nil, err
	}
	if rules.MaxRunning <= 0 {
		return t.pick(limit(selectNext, room), string(p))
	}
	flows, err := t.flows(p, rules.MaxRunning, taken)
	if err != nil {
		return nil, err
	}
	var called []eval.Evaluation
	for _, f := range flows[:min(room, len(flows))] {
		heads, err := t.pick(limit(selectHeads, min(room, f.room)), string(p), f.owner.Project, f.owner.Client)
		if err != nil {
			return nil, err
		}
		called = append(called, heads...)
	}
	slices.SortFunc(called, func(a, b eval.Evaluation) int { return cmp.Or(cmp.Compare(a.Turn, b.Turn), cmp.Compare(a.ID, b.ID)) })
	called = called[:min(room, len(called))]
	for _, e := range called {
		taken[e.Flow().Owner]++
	}
	return called, nil
}

// flow is a client of which some wait.
type flow struct {
	owner eval.Owner
	head  int64 // the least turn of those
	room  int   // how many more may run
}

// selectFlows walks from client to client by the index, and not from row to row.
func selectFlows(d dialect) string {
	return "WITH RECURSIVE flows (project_id, client) AS (" +
		"SELECT * FROM (SELECT project_id, client FROM evaluations WHERE " + inLine + " AND priority = ? ORDER BY project_id, client LIMIT 1) AS first" +
		" UNION ALL SELECT n.project_id, n.client FROM flows AS f " + d.nextFlow +
		") SELECT f.project_id, f.client, " + held + ", (SELECT turn FROM evaluations WHERE " + inLine +
		" AND priority = ? AND project_id = f.project_id AND client = f.client ORDER BY turn LIMIT 1) FROM flows AS f"
}

// flows are the clients that wait at a priority and are not at their limit,
// in the order of their turns. It costs as much as there are clients.
func (t *tx) flows(p eval.Priority, maxRunning int, taken map[eval.Owner]int) (all []flow, err error) {
	err = rows(t.db, func(r *sql.Rows) error {
		var (
			f flow
			n int
		)
		err := r.Scan(&f.owner.Project, &f.owner.Client, &n, &f.head)
		if f.room = maxRunning - n - taken[f.owner]; f.room > 0 {
			all = append(all, f)
		}
		return err
	}, limit(selectFlows(t.store.dialect), maxRunning), string(p), string(p), string(p))
	slices.SortFunc(all, func(a, b flow) int { return cmp.Compare(a.head, b.head) })
	return all, err
}

// Rewind implements [eval.Scheduler].
func (s *Store) Rewind(ctx context.Context) (int, error) {
	var n int64
	err := s.transact(ctx, func(t *tx) (err error) {
		now := t.now.UnixMicro()
		n, err = t.exec("UPDATE evaluations SET next_dispatch_at = ? WHERE "+dispatched+" AND next_dispatch_at > ?", now, now)
		return err
	})
	if err != nil {
		return 0, err
	}
	return int(n), nil
}
