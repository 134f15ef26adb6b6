package cli

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"

	"github.com/crucible-eval/crucible/cmd/internal/client"
	"github.com/crucible-eval/crucible/pkg/eval"
)

func printArtifacts(s *session, p paint, r *eval.Result) {
	if len(r.Artifacts) == 0 {
		return
	}
	fmt.Fprintln(s.stdout, p.faint("--- artifacts"))
	for _, a := range r.Artifacts {
		what := bytesText(a.Content.Bytes)
		if a.Error != "" {
			what = p.warn(a.Error)
		}
		fmt.Fprintf(s.stdout, "%s  %s\n", printable([]byte(a.Path)), what)
	}
	if r.ArtifactsCut {
		fmt.Fprintln(s.stdout, p.warn("there were more than come back"))
	}
}

// saveArtifacts writes the artifacts into a folder. Their paths were chosen by
// a program that nobody trusts: they stay below the folder, and what is there
// already is left alone. One that cannot be written does not keep the others
// from it.
func saveArtifacts(s *session, api *client.Client, e client.Evaluation, dir string) error {
	if e.Result == nil || len(e.Result.Artifacts) == 0 {
		return errors.New("there are no artifacts")
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }()
	var errs []error
	written := 0
	for i, a := range e.Result.Artifacts {
		if a.Error != "" {
			errs = append(errs, fmt.Errorf("%q %s", a.Path, a.Error))
			continue
		}
		if err := saveArtifact(s, api, e.ID, i, a, root); err != nil {
			errs = append(errs, fmt.Errorf("%q: %w", a.Path, err))
			continue
		}
		written++
	}
	fmt.Fprintf(s.stderr, "%s in %s\n", plural(written, "file"), dir)
	return errors.Join(errs...)
}

func saveArtifact(s *session, api *client.Client, id eval.ID, index int, a eval.Artifact, root *os.Root) (err error) {
	name := filepath.FromSlash(a.Path)
	if err := root.MkdirAll(filepath.FromSlash(path.Dir(a.Path)), 0o755); err != nil {
		return err
	}
	f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	defer func() {
		if err = errors.Join(err, f.Close()); err != nil {
			_ = root.Remove(name)
		}
	}()
	sum := sha256.New()
	if _, err := api.Artifact(s.ctx, id, index, io.MultiWriter(f, sum)); err != nil {
		return err
	}
	if hex.EncodeToString(sum.Sum(nil)) != a.SHA256 {
		return errors.New("what came is not what the executor took: its SHA-256 differs; get it again")
	}
	return nil
}
