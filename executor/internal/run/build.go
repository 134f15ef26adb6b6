package run

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/crucible-eval/crucible/executor/internal/sandbox"
	"github.com/crucible-eval/crucible/pkg/eval"
)

const (
	// maxMade is how much of what a compiler made is carried from its box to
	// the boxes of the runs.
	maxMade = 256 << 20
	// maxEntries is how many files and folders of a work folder are looked at:
	// more than one holds where the number is limited.
	maxEntries = 20_000
)

// files are contents by their path in a work folder.
type files map[string][]byte

// build compiles the program, for runs that each have a work folder of their
// own, or takes what was made of it before. ok is false when it was refused;
// the result then says why.
func (j *job) build(ctx context.Context) (made files, ok bool, err error) {
	if j.lang.Compile == nil {
		return nil, true, nil
	}
	key := j.buildKey()
	if !j.cold {
		if b := j.builds.get(key); b != nil {
			exit := 0
			j.result.Compile = &eval.Phase{Cached: true, Usage: eval.Usage{ExitCode: &exit}, Stdout: b.stdout, Stderr: b.stderr}
			return b.made, true, nil
		}
	}
	s, err := j.beginCompile(ctx)
	if err != nil {
		return nil, false, err
	}
	defer func() { _ = s.close() }()
	if ok, err := j.compile(ctx, s); err != nil || !ok {
		return nil, false, err
	}
	made, err = j.carry(s.workspace)
	if errors.Is(err, errNoProgram) {
		j.result.Verdict, j.result.Cause = eval.CompileError, eval.CauseCompile
		j.result.Explanation = fmt.Sprintf("The %s compiler reported success and made no program; is this a library?", j.lang.Name)
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	if !j.cold {
		j.builds.put(&build{key: key, made: made, stdout: j.result.Compile.Stdout, stderr: j.result.Compile.Stderr})
	}
	return made, true, nil
}

// carry takes what the compiler made out of its work folder: the one file
// that the run needs, where the language names it, else all that are new.
func (j *job) carry(w sandbox.Workspace) (files, error) {
	made, room := files{}, int64(maxMade)
	take := func(name string) error {
		b, err := w.ReadFile(name, room+1)
		if err != nil {
			return fmt.Errorf("%q: %w", name, err)
		}
		if room -= int64(len(b)); room < 0 {
			return eval.Errorf(eval.KindInvalid, "the compiled program is larger than %s; make it smaller, with less in static arrays and debugging data", size(maxMade))
		}
		made[name] = b
		return nil
	}
	if name := j.lang.Compile.Output; name != "" {
		err := take(name)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, sandbox.ErrNotRegular) || err == nil && len(made[name]) == 0 {
			return nil, errNoProgram
		}
		return made, unreadable(err)
	}
	entries, whole, err := w.List(maxEntries)
	if err != nil {
		return nil, broken("list the compiled program", err)
	}
	if !whole {
		return nil, eval.Errorf(eval.KindInvalid, "the compiled program has more than %d files, or too deep ones", maxEntries)
	}
	for _, e := range entries {
		if _, brought := j.source.Files[e.Path]; brought || e.Type != 0 {
			continue
		}
		if err := take(e.Path); err != nil {
			return nil, unreadable(err)
		}
	}
	return made, nil
}

// errNoProgram says that a compiler had nothing against the program's text and
// made nothing that could run, as of a library: the program's doing.
var errNoProgram = errors.New("the compiler made no program")

func unreadable(err error) error {
	if err == nil || eval.IsKind(err, eval.KindInvalid) {
		return err
	}
	return eval.Errorf(eval.KindSandbox, "what the compiler made cannot be read: %w", err)
}

// readWhole reads a file of at most limit bytes.
func readWhole(w sandbox.Workspace, name string, limit int64) (b []byte, length int64, err error) {
	f, err := w.Open(name)
	if err != nil {
		return nil, 0, err
	}
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil || info.Size() > limit {
		return nil, info.Size(), err
	}
	b, err = io.ReadAll(io.LimitReader(f, limit))
	return b, int64(len(b)), err
}
