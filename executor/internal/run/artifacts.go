package run

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/crucible-eval/crucible/executor/internal/sandbox"
	"github.com/crucible-eval/crucible/pkg/eval"
)

// collect brings the artifacts back from the work folder of a program that is
// dead. What is wrong with one is said of that one.
func (j *job) collect(w sandbox.Workspace) error {
	if len(j.program.Artifacts) == 0 {
		return nil
	}
	entries, whole, err := w.List(maxEntries)
	if err != nil {
		return broken("list the work folder", err)
	}
	j.result.ArtifactsCut = !whole
	room := j.task.Policy.MaxArtifactsBytes
	for _, e := range chosen(j.program.Artifacts, entries) {
		if len(j.result.Artifacts) == j.task.Policy.MaxArtifacts {
			j.result.ArtifactsCut = true
			break
		}
		a := artifact(w, e, j.task.Policy.MaxArtifactBytes, room)
		room -= int64(len(a.Content.Data))
		j.result.Artifacts = append(j.result.Artifacts, a)
	}
	slices.SortStableFunc(j.result.Artifacts, func(a, b eval.Artifact) int { return cmp.Compare(a.Path, b.Path) })
	return nil
}

// missing marks the entry of a path that was asked for and is not there.
const missing = fs.ModeIrregular

// chosen returns what the patterns choose, what lies less deep first. A folder
// or a missing file is among it only where it was asked for by its path.
func chosen(patterns []eval.Pattern, entries []sandbox.Entry) []sandbox.Entry {
	var all []sandbox.Entry
	found := map[string]bool{}
	for _, e := range entries {
		if slices.ContainsFunc(patterns, func(p eval.Pattern) bool {
			return (e.Type != fs.ModeDir || p.Literal()) && p.Match(e.Path)
		}) {
			all = append(all, e)
			found[e.Path] = true
		}
	}
	for _, p := range patterns {
		if p.Literal() && !found[string(p)] {
			all = append(all, sandbox.Entry{Path: string(p), Type: missing})
			found[string(p)] = true
		}
	}
	return all
}

// artifact reads one file.
func artifact(w sandbox.Workspace, e sandbox.Entry, limit, room int64) eval.Artifact {
	a := eval.Artifact{Path: e.Path, Content: eval.Stream{Bytes: e.Bytes}}
	switch {
	case !utf8.ValidString(e.Path):
		a.Path, a.Error = strings.ToValidUTF8(e.Path, "\uFFFD"), "its name is not valid UTF-8"
	case e.Type == missing:
		a.Error = "is not there"
	case e.Type != 0:
		a.Error = "is not a regular file"
	case e.Bytes > limit:
		a.Error = fmt.Sprintf("is larger than the %s that an artifact may have", size(limit))
	case e.Bytes > room:
		a.Error = "does not fit: the artifacts before it have used up what all may have together"
	}
	if a.Error != "" {
		return a
	}
	b, length, err := readWhole(w, e.Path, min(limit, room))
	switch {
	case errors.Is(err, sandbox.ErrNotRegular):
		a.Error = "is not a regular file"
	case errors.Is(err, fs.ErrPermission):
		a.Error = "cannot be read: its permissions do not allow it"
	case err != nil || length != e.Bytes:
		a.Error = "cannot be read"
	default:
		sum := sha256.Sum256(b)
		a.SHA256, a.Content.Data = hex.EncodeToString(sum[:]), b
	}
	return a
}
