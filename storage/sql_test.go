package storage_test

import (
	"database/sql"
	"path/filepath"
	"sync"
	"testing"

	_ "github.com/glebarez/go-sqlite"
	_ "github.com/jackc/pgx/v5/stdlib"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/pkg/testkit"
	"github.com/crucible-eval/crucible/storage"
)

// connect opens the database behind a configuration, past the store.
func connect(t testing.TB, cfg storage.Config) *sql.DB {
	t.Helper()
	driver, source := "pgx", cfg.DatabaseURL
	if source == "" {
		driver, source = "sqlite", filepath.Join(cfg.DataDir, "crucible.db")
	}
	db, err := sql.Open(driver, source)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	return db
}

func execute(t testing.TB, cfg storage.Config, statement string) {
	t.Helper()
	db := connect(t, cfg)
	_, err := db.ExecContext(t.Context(), statement)
	require.NoError(t, err)
	require.NoError(t, db.Close())
}

// databases runs a test on each database.
func databases(t *testing.T, test func(*testing.T, storage.Config)) {
	t.Run("sqlite", func(t *testing.T) {
		test(t, storage.Config{Backend: storage.SQLite, DataDir: t.TempDir()})
	})
	t.Run("postgres", func(t *testing.T) {
		cfg := postgres(t, nil)
		cfg.DataDir = t.TempDir()
		test(t, cfg)
	})
}

func evaluation(id string) eval.Evaluation {
	return eval.Evaluation{Key: eval.Key{Project: eval.DefaultProject, ID: eval.ID(id)},
		Spec: eval.Spec{Program: eval.Program{Language: "python", Code: eval.Bytes("print(1)")}}}
}

func create(t testing.TB, s eval.Store, ids ...string) {
	t.Helper()
	var sub eval.Submission
	for _, id := range ids {
		sub.Evaluations = append(sub.Evaluations, evaluation(id))
	}
	_, _, err := s.Create(t.Context(), sub)
	require.NoError(t, err)
}

func complete(t testing.TB, s eval.Store, id string) {
	t.Helper()
	key := evaluation(id).Key
	e, err := s.Claim(t.Context(), eval.ClaimRequest{Key: key, Worker: "w", Lease: 1e9})
	require.NoError(t, err)
	_, err = s.Finish(t.Context(), eval.Lease{Key: key, Attempt: e.Attempt}, eval.Outcome{Result: &eval.Result{Verdict: eval.Accepted}})
	require.NoError(t, err)
}

func TestWhatHasEndedNeverChanges(t *testing.T) {
	databases(t, func(t *testing.T, cfg storage.Config) {
		b := open(t, cfg)
		create(t, b.Store, "done", "cancelled", "failed", "queued")
		complete(t, b.Store, "done")
		_, err := b.Store.Cancel(t.Context(), evaluation("cancelled").Key, "")
		require.NoError(t, err)
		e, err := b.Store.Claim(t.Context(), eval.ClaimRequest{Key: evaluation("failed").Key, Worker: "w", Lease: 1e9})
		require.NoError(t, err)
		_, err = b.Store.Finish(t.Context(), eval.Lease{Key: e.Key, Attempt: 1}, eval.Outcome{Failure: &eval.Failure{Kind: eval.KindInvalid}})
		require.NoError(t, err)

		db := connect(t, cfg)
		for _, statement := range []string{
			"UPDATE evaluations SET status = 'queued' WHERE id = 'done'",
			"UPDATE evaluations SET verdict = 'accepted' WHERE id = 'failed'",
			"UPDATE evaluations SET result = NULL WHERE id = 'cancelled'",
			"UPDATE evaluations SET attempt = attempt + 1",
			"UPDATE programs SET spec = '{}' WHERE evaluation_id = 'queued'",
			"UPDATE evaluation_events SET message = 'nothing happened'",
		} {
			_, err := db.ExecContext(t.Context(), statement)
			require.ErrorContains(t, err, "never changes", statement)
		}
		_, err = db.ExecContext(t.Context(), "UPDATE evaluations SET worker = 'x' WHERE id = 'queued'")
		require.NoError(t, err, "what has not ended may change")
	})
}

func TestWhatIsWrittenIsThereAfterReopening(t *testing.T) {
	databases(t, func(t *testing.T, cfg storage.Config) {
		b := open(t, cfg)
		create(t, b.Store, "a")
		complete(t, b.Store, "a")
		before, err := b.Store.Get(t.Context(), evaluation("a").Key)
		require.NoError(t, err)
		require.NoError(t, b.Close())
		after, err := open(t, cfg).Store.Get(t.Context(), evaluation("a").Key)
		require.NoError(t, err)
		require.Equal(t, before, after)
	})
}

func TestMigrate(t *testing.T) {
	databases(t, func(t *testing.T, cfg storage.Config) {
		cfg.AutoMigrate = false
		steps, err := storage.MigrationStatus(t.Context(), cfg)
		require.NoError(t, err)
		require.NotEmpty(t, steps)
		require.Nil(t, steps[0].AppliedAt)
		if cfg.DatabaseURL != "" {
			b := open(t, cfg)
			require.ErrorContains(t, b.Ready(t.Context()), "crucible migrate")
			_, err := b.Store.Get(t.Context(), evaluation("a").Key)
			require.Equal(t, eval.KindUnavailable, eval.KindOf(err))
		}
		var replicas sync.WaitGroup
		for range 3 {
			replicas.Go(func() {
				if cfg.DatabaseURL == "" {
					return
				}
				_, err := storage.Migrate(t.Context(), cfg)
				assert.NoError(t, err, "several replicas may start at once")
			})
		}
		replicas.Wait()
		steps, err = storage.Migrate(t.Context(), cfg)
		require.NoError(t, err)
		for _, step := range steps {
			require.NotNil(t, step.AppliedAt, step.Name)
		}
		require.NoError(t, open(t, cfg).Ready(t.Context()))
	})
}

func TestDescribe(t *testing.T) {
	databases(t, func(t *testing.T, cfg storage.Config) {
		b := open(t, cfg)
		create(t, b.Store, "a", "b")
		d, err := b.Describe(t.Context(), eval.DefaultProject)
		require.NoError(t, err)
		require.EqualValues(t, 2, d.Stats.Statuses[eval.Queued])
		require.Greater(t, *d.DatabaseBytes, int64(10_000))
	})
}

// The feed must not pass by a transaction that took its place early and
// commits late.
func TestFeedWaitsForWhoCommitsLate(t *testing.T) {
	cfg := postgres(t, nil)
	b := open(t, cfg)
	db := connect(t, cfg)
	late, err := db.BeginTx(t.Context(), nil)
	require.NoError(t, err)
	_, err = late.ExecContext(t.Context(), `INSERT INTO evaluation_events
		(cursor, project_id, evaluation_id, seq, type, status, verdict, cause, attempt, at, worker, message)
		VALUES (pg_current_xact_id()::text::bigint << 12, 'default', 'late', 1, 'queued', 'queued', '', '', 0, 0, '', '')`)
	require.NoError(t, err)
	create(t, b.Store, "early")
	events, err := b.Store.Feed(t.Context(), eval.DefaultProject, 0, 10)
	require.NoError(t, err)
	require.Empty(t, events, "what comes after an open transaction has to wait")
	require.NoError(t, late.Commit())
	testkit.Eventually(t, func() bool {
		events, err = b.Store.Feed(t.Context(), eval.DefaultProject, 0, 10)
		return err == nil && len(events) == 2
	}, "both events are there")
	require.Equal(t, []eval.ID{"late", "early"}, []eval.ID{events[0].ID, events[1].ID})
}

func TestAFolderMayHaveAnyName(t *testing.T) {
	for _, name := range []string{"with space", "per%20cent", "question?mark", "hash#tag", "ä&b=c", "plus+"} {
		dir := filepath.Join(t.TempDir(), name)
		b := open(t, storage.Config{Backend: storage.SQLite, DataDir: dir})
		create(t, b.Store, "a")
		require.FileExists(t, filepath.Join(dir, "crucible.db"))
	}
}
