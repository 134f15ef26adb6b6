package sqlstore_test

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	_ "github.com/glebarez/go-sqlite"
	_ "github.com/jackc/pgx/v5/stdlib"
	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/pkg/testkit"
	"github.com/crucible-eval/crucible/storage/internal/sqlstore"
)

func TestMain(m *testing.M) { os.Exit(testkit.Services(m).Run()) }

// opened is a store and the database behind it.
type opened struct {
	*sqlstore.Store
	driver, source string
}

func (o opened) db(t testing.TB) *sql.DB {
	db, err := sql.Open(o.driver, o.source)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	return db
}

func openSQLite(t testing.TB) opened {
	file := filepath.Join(t.TempDir(), "crucible.db")
	s, err := sqlstore.OpenSQLite(t.Context(), file, sqlstore.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return opened{s, "sqlite", file}
}

func openPostgres(t testing.TB) opened {
	url := testkit.Postgres(t).NewDatabase(t)
	s, err := sqlstore.OpenPostgres(t.Context(), url, true, sqlstore.Options{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, s.Close()) })
	return opened{s, "pgx", url}
}

// wait lets n evaluations wait, of as many clients.
func (o opened) wait(t testing.TB, n, clients int) {
	t.Helper()
	for made := 0; made < n; {
		var sub eval.Submission
		for range min(2000, n-made) {
			sub.Evaluations = append(sub.Evaluations, eval.Evaluation{
				Key: eval.Key{Project: eval.DefaultProject, ID: eval.ID(fmt.Sprintf("%08d", made))}, Client: fmt.Sprint("client-", made/2000%clients),
				Spec: eval.Spec{Program: eval.Program{Language: "bash", Code: eval.Bytes("exit 0")}},
			})
			made++
		}
		_, _, err := o.Create(t.Context(), sub)
		require.NoError(t, err)
	}
}

// No question that is asked while work goes on reads a table or sorts what waits.
func TestIndexesAnswer(t *testing.T) {
	t.Run("sqlite", func(t *testing.T) {
		o := openSQLite(t)
		o.wait(t, 6000, 3)
		for name, q := range sqlstore.Asked(o.Store) {
			plan := explain(t, o.db(t), "EXPLAIN QUERY PLAN "+q.SQL, 3, q.Values...)
			require.NotContains(t, plan, "SCAN evaluations\n", "%s:\n%s", name, plan)
			require.NotContains(t, plan, "TEMP B-TREE", "%s:\n%s", name, plan)
			require.Contains(t, plan, "USING", "%s:\n%s", name, plan)
		}
	})
	t.Run("postgres", func(t *testing.T) {
		o := openPostgres(t)
		o.wait(t, 20000, 3)
		db := o.db(t)
		db.SetMaxOpenConns(1)
		// As a statement that is used often is planned: for whatever values.
		_, err := db.ExecContext(t.Context(), "ANALYZE evaluations; SET plan_cache_mode = force_generic_plan")
		require.NoError(t, err)
		for name, q := range sqlstore.Asked(o.Store) {
			plan := explain(t, db, "EXPLAIN "+numbered(q.SQL), 0, q.Values...)
			require.NotContains(t, plan, "Seq Scan", "%s:\n%s", name, plan)
			require.NotContains(t, plan, "Sort", "%s:\n%s", name, plan)
			require.Contains(t, plan, "evaluations_", "%s:\n%s", name, plan)
		}
	})
}

// numbered writes marks as PostgreSQL has them.
func numbered(statement string) string {
	parts := strings.Split(statement, "?")
	for i := range parts[:len(parts)-1] {
		parts[i] += fmt.Sprint("$", i+1)
	}
	return strings.Join(parts, "")
}

// explain returns a column of the answer, a line for each row.
func explain(t *testing.T, db *sql.DB, statement string, column int, values ...any) string {
	t.Helper()
	found, err := db.QueryContext(t.Context(), statement, values...)
	require.NoError(t, err, statement)
	defer func() { require.NoError(t, found.Close()) }()
	columns, err := found.Columns()
	require.NoError(t, err)
	var plan strings.Builder
	for found.Next() {
		row, pointers := make([]any, len(columns)), make([]any, len(columns))
		for i := range row {
			pointers[i] = &row[i]
		}
		require.NoError(t, found.Scan(pointers...))
		fmt.Fprintln(&plan, row[column])
	}
	require.NoError(t, found.Err())
	return plan.String()
}

// BenchmarkFeed is what it costs to find out whose turn it is when few wait,
// and when a thousand times as many do: in turn, so that the machine's mood is
// the same for both.
func BenchmarkFeed(b *testing.B) {
	const few, many, window = 100, 100_000, 8
	feed := func(b *testing.B, o opened) time.Duration {
		began := time.Now()
		due, err := o.Due(b.Context(), eval.DueRequest{Limit: 200, Again: time.Hour, Window: window})
		took := time.Since(began)
		require.NoError(b, err)
		for _, d := range due { // room for the next time
			_, err := o.Claim(context.Background(), eval.ClaimRequest{Key: d.Key, Worker: "w", Lease: time.Hour})
			require.NoError(b, err)
		}
		return took
	}
	for name, open := range map[string]func(testing.TB) opened{"sqlite": openSQLite, "postgres": openPostgres} {
		b.Run(name, func(b *testing.B) {
			small, large := open(b), open(b)
			small.wait(b, few, 2)
			large.wait(b, many, 40)
			if name == "postgres" {
				_, err := large.db(b).ExecContext(b.Context(), "ANALYZE evaluations")
				require.NoError(b, err)
			}
			feed(b, small) // what create dispatched
			feed(b, large)
			var brief, long []time.Duration
			for b.Loop() {
				if len(brief) < (few-2*window)/window { // some are left at the end
					brief = append(brief, feed(b, small))
				}
				long = append(long, feed(b, large))
			}
			b.ReportMetric(middle(brief), "100-waiting-us")
			b.ReportMetric(middle(long), "100000-waiting-us")
			b.ReportMetric(middle(long)/middle(brief), "ratio")
		})
	}
}

// middle is the median in microseconds.
func middle(all []time.Duration) float64 {
	slices.Sort(all)
	return float64(all[len(all)/2].Microseconds())
}
