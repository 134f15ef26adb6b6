//go:build chaos && linux

package chaos_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"

	"github.com/crucible-eval/crucible/cmd/internal/client"
	"github.com/crucible-eval/crucible/pkg/eval"
)

// job is a program whose outcome is known.
type job struct {
	kind   string
	spec   eval.Spec
	check  func(client.Evaluation) error // of the terminal evaluation
	cancel time.Duration                 // after this time it is cancelled; 0: never
	stdout func() []byte                 // what the whole stream has to be, when it is too long for a row
}

// nonce marks one run: a program writes it first and last, so that output of two runs in one is seen.
const nonceBytes = 16

// jobs are the kinds of programs, with how often each occurs. They cost little, but some take a while.
var jobs = []struct {
	weight int
	make   func(n int, r *rand.Rand) job
}{
	{32, pythonJob}, {32, bashJob}, {10, compiledJob}, {3, napJob}, {5, exitJob}, {4, testsJob}, {4, signalJob},
	{1, slowJob}, {3, brokenJob}, {2, largeJob}, {3, cancelJob},
}

func drawJob(n int, r *rand.Rand) job {
	sum := 0
	for _, j := range jobs {
		sum += j.weight
	}
	at := r.IntN(sum)
	for _, j := range jobs {
		if at -= j.weight; at < 0 {
			return j.make(n, r)
		}
	}
	panic("unreachable")
}

func source(language, code string, args ...string) eval.Spec {
	return eval.Spec{Program: eval.Program{Language: language, Code: eval.Bytes(code), Args: args}}
}

// completed checks the verdict and the output. want is the whole of stdout, with NONCE where the run's own mark stands.
func completed(verdict eval.Verdict, cause eval.Cause, want string) func(client.Evaluation) error {
	return func(e client.Evaluation) error {
		if e.Status != eval.Completed || e.Verdict != verdict || e.Cause != cause {
			return fmt.Errorf("want completed %s %s, got %s %s %s (%v)", verdict, cause, e.Status, e.Verdict, e.Cause, e.Failure)
		}
		if e.Result == nil {
			return fmt.Errorf("no result")
		}
		return sameRun(want, e.Result.Stdout.Data)
	}
}

const mark = "NONCE"

func sameRun(want string, got []byte) error {
	if at := strings.Index(want, mark); at >= 0 {
		if len(got) < at+2*nonceBytes {
			return fmt.Errorf("stdout is %q: too short", got)
		}
		want = strings.ReplaceAll(want, mark, string(got[at:at+2*nonceBytes]))
	}
	if !bytes.Equal([]byte(want), got) {
		return fmt.Errorf("stdout is %q, want %q", clip(got), clip([]byte(want)))
	}
	return nil
}

func clip(b []byte) []byte { return b[:min(len(b), 200)] }

func pythonJob(n int, _ *rand.Rand) job {
	code := fmt.Sprintf("import os\nn = os.urandom(%d).hex()\nprint('begin', n)\nprint(%d * 7)\nprint('end', n)\n", nonceBytes, n)
	return job{kind: "python", spec: source("python", code), check: completed(eval.Accepted, "", fmt.Sprintf("begin NONCE\n%d\nend NONCE\n", n*7))}
}

// bashNonce sets n to a mark of 32 digits.
const bashNonce = "n=$(printf '%04x%04x%04x%04x%04x%04x%04x%04x' $RANDOM $RANDOM $RANDOM $RANDOM $RANDOM $RANDOM $RANDOM $RANDOM)\n"

func bashJob(n int, _ *rand.Rand) job {
	code := bashNonce + "echo \"begin $n\"\necho $(($1 + 1))\necho \"end $n\"\n"
	return job{kind: "bash", spec: source("bash", code, strconv.Itoa(n)), check: completed(eval.Accepted, "", fmt.Sprintf("begin NONCE\n%d\nend NONCE\n", n+1))}
}

// The source is the same each time, so that it is compiled once and the cache of compiled programs takes part.
const compiledSource = `#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>
int main(int argc, char **argv) {
	unsigned char b[16];
	char hex[33];
	if (argc < 2 || getrandom(b, sizeof b, 0) != sizeof b) return 3;
	for (int i = 0; i < 16; i++) sprintf(hex + 2 * i, "%02x", b[i]);
	printf("begin %s\n%ld\nend %s\n", hex, 3 * strtol(argv[1], 0, 10), hex);
	return 0;
}
`

func compiledJob(n int, _ *rand.Rand) job {
	return job{kind: "c", spec: source("c", compiledSource, strconv.Itoa(n)), check: completed(eval.Accepted, "", fmt.Sprintf("begin NONCE\n%d\nend NONCE\n", 3*n))}
}

// napJob takes one to three seconds and writes all the while.
func napJob(_ int, r *rand.Rand) job {
	return nap(time.Second + time.Duration(r.IntN(8))*250*time.Millisecond)
}

const napTick = 250 * time.Millisecond

func nap(d time.Duration) job {
	ticks := int(d / napTick)
	code := bashNonce + "echo \"begin $n\"\nfor i in $(seq $1); do sleep 0.25; echo \"tick $i\"; done\necho \"end $n\"\n"
	var want strings.Builder
	want.WriteString("begin NONCE\n")
	for i := range ticks {
		fmt.Fprintf(&want, "tick %d\n", i+1)
	}
	want.WriteString("end NONCE\n")
	return job{kind: "nap", spec: source("bash", code, strconv.Itoa(ticks)), check: completed(eval.Accepted, "", want.String())}
}

func exitJob(n int, _ *rand.Rand) job {
	code := 1 + n%100
	check := completed(eval.RuntimeError, eval.CauseExitCode, "going\n")
	return job{kind: "exit code", spec: source("python", fmt.Sprintf("import sys\nprint('going')\nsys.exit(%d)\n", code)), check: func(e client.Evaluation) error {
		if err := check(e); err != nil {
			return err
		}
		if e.Result.ExitCode == nil || *e.Result.ExitCode != code {
			return fmt.Errorf("exit code is %v, want %d", e.Result.ExitCode, code)
		}
		return nil
	}}
}

func signalJob(int, *rand.Rand) job {
	return job{kind: "signal", spec: source("bash", "echo dying\nkill -SEGV $$\n"), check: completed(eval.RuntimeError, eval.CauseSignal, "dying\n")}
}

func testsJob(n int, _ *rand.Rand) job {
	right, wrong := eval.Bytes(strconv.Itoa(n+1)+"\n"), eval.Bytes("no such number\n")
	spec := source("bash", "read -r x; echo $((x + 1))\n")
	spec.Tests = []eval.Test{
		{Name: "right", Stdin: eval.Bytes(strconv.Itoa(n) + "\n"), ExpectedStdout: &right},
		{Name: "wrong", Stdin: eval.Bytes("1\n"), ExpectedStdout: &wrong},
	}
	return job{kind: "tests", spec: spec, check: func(e client.Evaluation) error {
		if e.Status != eval.Completed || e.Verdict != eval.WrongAnswer || e.Result == nil || len(e.Result.Tests) != 2 {
			return fmt.Errorf("want wrong_answer with two tests, got %s %s", e.Status, e.Verdict)
		}
		if a, b := e.Result.Tests[0].Verdict, e.Result.Tests[1].Verdict; a != eval.Accepted || b != eval.WrongAnswer {
			return fmt.Errorf("the tests came to %s and %s", a, b)
		}
		return nil
	}}
}

func slowJob(int, *rand.Rand) job {
	spec := source("bash", "echo kept\nsleep 60\n")
	spec.Limits.WallMS = 1500
	return job{kind: "wall limit", spec: spec, check: completed(eval.TimeLimit, eval.CauseWall, "kept\n")}
}

func brokenJob(int, *rand.Rand) job {
	return job{kind: "compile error", spec: source("c", "int main(void) { return nothing; }\n"), check: func(e client.Evaluation) error {
		if e.Status != eval.Completed || e.Verdict != eval.CompileError {
			return fmt.Errorf("want compile_error, got %s %s (%v)", e.Status, e.Verdict, e.Failure)
		}
		return nil
	}}
}

// largeJob writes more than a row holds: its output goes through the blobs.
func largeJob(n int, _ *rand.Rand) job {
	const lines = 7000 // of 16 bytes
	code := fmt.Sprintf("import sys\nsys.stdout.write(''.join('%%015d\\n' %% (%d + i) for i in range(%d)))\n", n, lines)
	return job{kind: "large output", spec: source("python", code), check: func(e client.Evaluation) error {
		if e.Status != eval.Completed || e.Verdict != eval.Accepted || e.Result == nil || e.Result.Stdout.Bytes != 16*lines {
			return fmt.Errorf("want accepted with %d bytes, got %s %s (%v)", 16*lines, e.Status, e.Verdict, e.Failure)
		}
		return nil
	}, stdout: func() []byte {
		var want bytes.Buffer
		for i := range lines {
			fmt.Fprintf(&want, "%015d\n", n+i)
		}
		return want.Bytes()
	}}
}

// cancelReason comes back with what was cancelled.
const cancelReason = "chaos has seen enough"

func cancelJob(_ int, r *rand.Rand) job {
	spec := source("bash", "echo waiting\nsleep 100\n")
	spec.Limits.WallMS = 120_000
	return job{kind: "cancelled", spec: spec, cancel: time.Duration(1+r.IntN(1500)) * time.Millisecond, check: cancelled}
}

func cancelled(e client.Evaluation) error {
	if e.Status != eval.Cancelled || e.Reason != cancelReason {
		return fmt.Errorf("want cancelled, got %s %s (%v)", e.Status, e.Verdict, e.Failure)
	}
	return nil
}
