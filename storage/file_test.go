package storage_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/storage"
)

func TestFilesOutliveTheProcess(t *testing.T) {
	cfg := storage.Config{Backend: storage.File, DataDir: t.TempDir()}
	b := open(t, cfg)
	create(t, b.Store, "a", "b", "c")
	complete(t, b.Store, "a")
	_, err := b.Store.Claim(t.Context(), eval.ClaimRequest{Key: evaluation("b").Key, Worker: "w", Lease: 1e9})
	require.NoError(t, err)
	_, err = b.Store.Finish(t.Context(), eval.Lease{Key: evaluation("b").Key, Attempt: 1}, eval.Outcome{Failure: &eval.Failure{Kind: eval.KindInvalid}})
	require.NoError(t, err)
	_, _, err = b.Store.Create(t.Context(), eval.Submission{IdempotencyKey: "k", Evaluations: []eval.Evaluation{evaluation("d")}})
	require.NoError(t, err)

	type view struct {
		Page     eval.Page
		Feed     []eval.Event
		Attempts []eval.Attempt
		Dead     eval.DeadLetterPage
		Stats    eval.Stats
		A        eval.Evaluation
	}
	look := func(s eval.Store) (v view) {
		var err error
		v.Page, err = s.List(t.Context(), eval.Query{Project: eval.DefaultProject})
		require.NoError(t, err)
		v.Feed, err = s.Feed(t.Context(), eval.DefaultProject, 0, 100)
		require.NoError(t, err)
		v.Attempts, err = s.Attempts(t.Context(), evaluation("b").Key)
		require.NoError(t, err)
		v.Dead, err = s.ListDeadLetters(t.Context(), eval.DeadLetterQuery{Project: eval.DefaultProject})
		require.NoError(t, err)
		v.Stats, err = s.Stats(t.Context(), eval.DefaultProject)
		require.NoError(t, err)
		v.A, err = s.Get(t.Context(), evaluation("a").Key)
		require.NoError(t, err)
		return v
	}
	before := look(b.Store)
	require.NoError(t, b.Close())
	_, err = b.Store.Cancel(t.Context(), evaluation("c").Key, "")
	require.Equal(t, eval.KindUnavailable, eval.KindOf(err), "it is closed")

	b = open(t, cfg)
	requireSameJSON(t, before, look(b.Store))
	_, replayed, err := b.Store.Create(t.Context(), eval.Submission{IdempotencyKey: "k", Evaluations: []eval.Evaluation{evaluation("e")}})
	require.NoError(t, err)
	require.True(t, replayed)
	create(t, b.Store, "f")
	newest, err := b.Store.Feed(t.Context(), eval.DefaultProject, -1, 1)
	require.NoError(t, err)
	require.Greater(t, newest[0].Cursor, before.Feed[len(before.Feed)-1].Cursor)
}

func TestFilesBelongToOneProcess(t *testing.T) {
	cfg := storage.Config{Backend: storage.File, DataDir: t.TempDir()}
	b := open(t, cfg)
	_, err := storage.Open(t.Context(), cfg, nil)
	require.ErrorContains(t, err, "another process uses the folder")
	require.NoError(t, b.Close())
	open(t, cfg)
}

func TestNoNameLeavesTheFolder(t *testing.T) {
	root := t.TempDir()
	cfg := storage.Config{Backend: storage.File, DataDir: filepath.Join(root, "data")}
	b := open(t, cfg)
	names := []string{"../../../escape", "/etc/passwd", "..", ".", "a/b", "con", "_", "-rf", "ä", "A", "a", strings.Repeat("x", 5000), "a\nb", "%2e%2e"}
	for _, project := range names {
		for _, id := range names {
			e := evaluation(id)
			e.Project = project
			_, _, err := b.Store.Create(t.Context(), eval.Submission{IdempotencyKey: id, Evaluations: []eval.Evaluation{e}})
			require.NoError(t, err)
		}
	}
	require.NoError(t, b.Close())
	b = open(t, cfg)
	for _, project := range names {
		page, err := b.Store.List(t.Context(), eval.Query{Project: project})
		require.NoError(t, err)
		require.Len(t, page.Evaluations, len(names), project)
	}
	entries, err := os.ReadDir(root)
	require.NoError(t, err)
	require.Len(t, entries, 1)
}

// A batch is several files. It counts from the moment that it is written down
// as an intent, even when carrying it out is interrupted.
func TestAnInterruptedBatchIsCarriedOut(t *testing.T) {
	cfg := storage.Config{Backend: storage.File, DataDir: t.TempDir()}
	b, err := storage.Open(t.Context(), cfg, nil)
	require.NoError(t, err)
	obstacle := filepath.Join(cfg.DataDir, "evaluations", "records", eval.DefaultProject, "b"+".json")
	require.NoError(t, os.MkdirAll(filepath.Join(obstacle, "x"), 0o700))
	create(t, b.Store, "a", "b", "c")
	_, err = b.Store.Cancel(t.Context(), evaluation("a").Key, "")
	require.Equal(t, eval.KindUnavailable, eval.KindOf(err), "nothing else is written before it")
	require.ErrorContains(t, err, "check it")
	e, err := b.Store.Get(t.Context(), evaluation("c").Key)
	require.NoError(t, err)
	require.Equal(t, eval.Queued, e.Status)
	require.Error(t, b.Close())

	require.NoError(t, os.RemoveAll(obstacle))
	b, err = storage.Open(t.Context(), cfg, nil)
	require.NoError(t, err)
	defer func() { require.NoError(t, b.Close()) }()
	for _, id := range []string{"a", "b", "c"} {
		complete(t, b.Store, id)
	}
	left, err := os.ReadDir(filepath.Join(cfg.DataDir, "evaluations", "intents"))
	require.NoError(t, err)
	require.Empty(t, left)
}

func TestABrokenFileIsNamed(t *testing.T) {
	cfg := storage.Config{Backend: storage.File, DataDir: t.TempDir()}
	b := open(t, cfg)
	create(t, b.Store, "a")
	require.NoError(t, b.Close())
	path := filepath.Join(cfg.DataDir, "evaluations", "records", eval.DefaultProject, "a.json")
	require.NoError(t, os.WriteFile(path, []byte("{"), 0o600))
	_, err := storage.Open(t.Context(), cfg, nil)
	require.ErrorContains(t, err, path)
}

func TestHalfWrittenBlobsAreSweptUp(t *testing.T) {
	cfg := storage.Config{Backend: storage.SQLite, DataDir: t.TempDir()}
	b := open(t, cfg)
	digest, _, err := b.Blobs.Put(t.Context(), strings.NewReader("hello"))
	require.NoError(t, err)
	require.NoError(t, b.Close())
	folder := filepath.Join(cfg.DataDir, "blobs", digest[:2])
	old, young := filepath.Join(folder, "x.1.tmp"), filepath.Join(folder, "y.2.tmp")
	for _, path := range []string{old, young} {
		require.NoError(t, os.WriteFile(path, []byte("half"), 0o600))
	}
	yesterday := time.Now().Add(-25 * time.Hour)
	require.NoError(t, os.Chtimes(old, yesterday, yesterday))
	require.NoError(t, os.Chtimes(filepath.Join(folder, digest), yesterday, yesterday))
	b = open(t, cfg)
	require.NoFileExists(t, old)
	require.FileExists(t, young, "another process may be writing it")
	_, _, err = b.Blobs.Open(t.Context(), digest, 0, -1)
	require.NoError(t, err)
}
