package demo

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/crucible-eval/crucible/cmd/internal/client"
	"github.com/crucible-eval/crucible/pkg/eval"
)

// check compares the outcome of the nth request with what was expected, and
// returns what does not hold.
func (x Expect) check(ctx context.Context, api *client.Client, e client.Evaluation, n int) (wrong []string) {
	say := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	same := func(what string, got, want any) {
		if got != want {
			say("%s is %v, expected %v", what, got, want)
		}
	}
	same("status", e.Status, x.Status)
	if e.Failure != nil {
		say("the platform failed: %s", e.Failure.Message)
	}
	if e.Result == nil {
		return append(wrong, "there is no result")
	}
	r := e.Result
	if x.Verdict != "" {
		same("verdict", e.Verdict, x.Verdict)
	}
	if x.Cause != "" {
		same("cause", e.Cause, x.Cause)
	}
	if x.Signal != "" {
		same("signal", r.Signal, x.Signal)
	}
	if x.Attempt != 0 {
		same("attempt", e.Attempt, x.Attempt)
	}
	if x.ExitCode != nil {
		if r.ExitCode == nil {
			say("there is no exit code, expected %d", *x.ExitCode)
		} else {
			same("exit code", *r.ExitCode, *x.ExitCode)
		}
	}
	if x.Truncated != nil {
		same("truncated", r.Stdout.Truncated, *x.Truncated)
	}
	if x.StdoutBytes != nil {
		same("stdout's length", r.Stdout.Bytes, *x.StdoutBytes)
	}
	stream := func(name string, s eval.Stream, exact *string, contains []string) {
		if exact != nil && string(s.Data) != numbered(*exact, n) {
			say("%s is %q, expected %q", name, clip(string(s.Data)), clip(numbered(*exact, n)))
		}
		for _, part := range contains {
			if !strings.Contains(string(s.Data), numbered(part, n)) {
				say("%s does not contain %q: %q", name, part, clip(string(s.Data)))
			}
		}
	}
	stream("stdout", r.Stdout, x.Stdout, x.StdoutContains)
	stream("stderr", r.Stderr, x.Stderr, x.StderrContains)
	if len(x.CompileContains) > 0 {
		if r.Compile == nil {
			say("nothing was compiled")
		} else {
			stream("the compiler's stderr", r.Compile.Stderr, nil, x.CompileContains)
		}
	}
	if x.Tests != nil {
		var got []string
		for _, t := range r.Tests {
			got = append(got, string(t.Verdict))
		}
		if !slices.Equal(got, x.Tests) {
			say("the tests are %v, expected %v", got, x.Tests)
		}
	}
	if x.Artifacts != nil {
		if got := artifacts(ctx, api, e); !maps.Equal(got, x.Artifacts) {
			say("the artifacts are %v, expected %v", got, x.Artifacts)
		}
	}
	within := func(what string, got float64, want *Range) {
		if want != nil && (got < want.Min || got > want.Max) {
			say("%s is %.0f, expected %.0f to %.0f", what, got, want.Min, want.Max)
		}
	}
	within("wall_ms", r.WallMS, x.WallMS)
	within("cpu_ms", r.CPUMS, x.CPUMS)
	memory := x.MemoryPeakBytes
	if memory != nil && !enforced(r.Isolation, "memory_limit") {
		memory = &Range{Min: memory.Min, Max: math.Inf(1)}
	}
	within("memory_peak_bytes", float64(r.MemoryPeakBytes), memory)
	if x.StdoutSHA256 != "" {
		sum := sha256.New()
		if _, err := api.Output(ctx, e.ID, "stdout", 0, sum); err != nil {
			say("the whole of stdout cannot be read: %v", err)
		} else {
			same("stdout's SHA-256", hex.EncodeToString(sum.Sum(nil)), x.StdoutSHA256)
		}
	}
	return wrong
}

// artifacts downloads each and returns its SHA-256, or what is wrong with it.
func artifacts(ctx context.Context, api *client.Client, e client.Evaluation) map[string]string {
	got := map[string]string{}
	for i, a := range e.Result.Artifacts {
		sum := sha256.New()
		if got[a.Path] = a.Error; a.Error != "" {
			continue
		}
		if _, err := api.Artifact(ctx, e.ID, i, sum); err != nil {
			got[a.Path] = err.Error()
			continue
		}
		got[a.Path] = hex.EncodeToString(sum.Sum(nil))
	}
	return got
}

// enforced reports whether a control holds exactly, rather than about.
func enforced(i eval.Isolation, control string) bool {
	return slices.ContainsFunc(i.Controls, func(c eval.Control) bool { return c.Name == control && c.State == eval.ControlEnforced })
}

func clip(s string) string {
	if len(s) > 200 {
		return s[:200] + "..."
	}
	return s
}
