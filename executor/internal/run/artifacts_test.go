package run

import (
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/executor/internal/sandbox"
	"github.com/crucible-eval/crucible/pkg/eval"
)

// shown is a work folder that has these entries, and files for those that can
// be read.
type shown struct {
	sandbox.Workspace
	dir     string
	entries []sandbox.Entry
	whole   bool
}

func (s shown) List(int) ([]sandbox.Entry, bool, error) { return s.entries, s.whole, nil }
func (s shown) Open(name string) (*os.File, error)      { return os.Open(filepath.Join(s.dir, name)) }

func TestArtifactsKeepToTheirBounds(t *testing.T) {
	w := shown{dir: t.TempDir(), whole: true}
	add := func(name string, content string, said int) {
		require.NoError(t, os.WriteFile(filepath.Join(w.dir, name), []byte(content), 0o644))
		w.entries = append(w.entries, sandbox.Entry{Path: name, Bytes: int64(said)})
	}
	add("a", "12345", 5)
	add("b", "123456", 6) // more than each may have
	add("c", "1234", 4)
	add("d", "12", 2) // does not fit any more
	add("e", "1", 1)
	add("f", "longer than it was", 0)
	w.entries = append(w.entries, sandbox.Entry{Path: "gone", Bytes: 0}, sandbox.Entry{Path: "link", Type: fs.ModeSymlink})
	collect := func(count int) eval.Result {
		j := &job{program: &eval.Program{Artifacts: []eval.Pattern{"*"}}, task: Task{Policy: &eval.Policy{MaxArtifacts: count, MaxArtifactBytes: 5, MaxArtifactsBytes: 10}}}
		require.NoError(t, j.collect(w))
		return j.result
	}
	var got []string
	for _, a := range collect(8).Artifacts {
		got = append(got, a.Path+" "+string(a.Content.Data)+" "+a.Error)
	}
	const full = "does not fit: the artifacts before it have used up what all may have together"
	require.Equal(t, []string{
		"a 12345 ", "b  is larger than the 5 bytes that an artifact may have", "c 1234 ", "d  " + full, "e 1 ", "f  cannot be read",
		"gone  cannot be read", "link  is not a regular file",
	}, got)
	require.False(t, collect(8).ArtifactsCut)
	require.True(t, collect(7).ArtifactsCut)
	require.Len(t, collect(7).Artifacts, 7)
	w.whole = false
	require.True(t, collect(8).ArtifactsCut)
}
