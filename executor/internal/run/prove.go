package run

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/crucible-eval/crucible/executor/internal/lang"
	"github.com/crucible-eval/crucible/executor/internal/sandbox"
	"github.com/crucible-eval/crucible/pkg/eval"
)

// proveLimits are generous: the first start of a toolchain reads it from disk.
var proveLimits = eval.Limits{
	WallMS: 30_000, CPUMS: 30_000, MemoryBytes: 512 << 20, Processes: 64, OutputBytes: 64 << 10, DiskBytes: 64 << 20,
}

// Prove asks a toolchain for its version and runs its smoke test, both in
// boxes. It is a lang.Prove.
func (r *Runner) Prove(ctx context.Context, t *lang.Toolchain) (lang.Proof, error) {
	proof := lang.Proof{}
	var err error
	if proof.Version, err = r.version(ctx, t); err != nil {
		return lang.Proof{}, err
	}
	p := &eval.Program{Language: t.ID, Code: eval.Bytes(t.Smoke.Code), Stdin: eval.Bytes(t.Smoke.Stdin), Limits: proveLimits}
	res, err := r.Run(ctx, Task{Language: t, Program: p, Cold: true})
	switch {
	case err != nil:
		return lang.Proof{}, fmt.Errorf("its smoke test could not run: %w", err)
	case res.Verdict == eval.CompileError:
		return lang.Proof{}, fmt.Errorf("its smoke test does not compile: %s", firstLine(res.Compile.Stderr.Data, res.Compile.Stdout.Data))
	case res.Verdict != eval.Accepted:
		return lang.Proof{}, fmt.Errorf("its smoke test ended with %s (%s): %s", res.Verdict, res.Explanation, firstLine(res.Stderr.Data))
	case string(res.Stdout.Data) != t.Smoke.Stdout:
		return lang.Proof{}, fmt.Errorf("its smoke test printed %q, not %q", firstLine(res.Stdout.Data), t.Smoke.Stdout)
	}
	if proof.RunMS = res.WallMS; res.Compile != nil {
		proof.CompileMS = res.Compile.WallMS
	}
	return proof, nil
}

func (r *Runner) version(ctx context.Context, t *lang.Toolchain) (string, error) {
	box, err := r.boxes.Prepare(ctx, sandbox.BoxSpec{Binds: t.Binds})
	if err != nil {
		return "", fmt.Errorf("no box can be made for it: %w", err)
	}
	defer func() { _ = box.Close() }()
	var out bytes.Buffer
	var errs bytes.Buffer
	rep, err := box.Run(ctx, sandbox.Command{
		Argv: t.VersionCommand(), Env: t.Environ(nil), Stdout: &out, Stderr: &errs,
		Limits: sandbox.Limits{Wall: 20 * time.Second, MemoryBytes: proveLimits.MemoryBytes, OutputBytes: 64 << 10},
	})
	if err != nil {
		return "", fmt.Errorf("its version cannot be asked: %w", err)
	}
	if rep.StartError != "" || rep.ExitCode != 0 {
		return "", fmt.Errorf("its version command ended with exit code %d: %s %s", rep.ExitCode, rep.StartError, firstLine(errs.Bytes(), out.Bytes()))
	}
	version := t.FindVersion(out.String() + errs.String())
	if version == "" {
		return "", fmt.Errorf("its version command said nothing that looks like a version: %s", firstLine(out.Bytes(), errs.Bytes()))
	}
	return version, nil
}

// firstLine returns the first line of the first of all that is not empty.
func firstLine(all ...[]byte) string {
	for _, b := range all {
		if text := strings.TrimSpace(string(b)); text != "" {
			line, _, _ := strings.Cut(text, "\n")
			return line[:min(len(line), 200)]
		}
	}
	return ""
}
