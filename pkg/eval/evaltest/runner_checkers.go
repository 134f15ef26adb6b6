package evaltest

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/pkg/eval"
)

// judge is a checker program: the output must be a divisor of the input that
// is not above the expected one.
const judge = `import sys
n, most = int(open(sys.argv[1]).read()), int(open(sys.argv[2]).read())
try:
    d = int(sys.stdin.read())
except ValueError:
    print("not a number")
    sys.exit(43)
if d == 13: raise Exception("unlucky")
if d == 14: sys.exit(0)
if d == 15:
    while True: pass
with open(sys.argv[3] + "judgemessage.txt", "w") as f:
    f.write(f"{n} = {d} * {n // d} + {n % d}\n")
sys.exit(42 if 0 < d <= most and n % d == 0 else 43)
`

func (r runner) checkers(t *testing.T) {
	one := func(c eval.Checker, out, want string) eval.Result {
		req := request("bash", "cat")
		req.Tests = []eval.Test{{Stdin: eval.Bytes(out), ExpectedStdout: expect(want), Checker: c}}
		return r.run(t, req)
	}
	t.Run("floats, regex and JSON", func(t *testing.T) {
		for _, c := range []struct {
			checker   eval.Checker
			out, want string
			verdict   eval.Verdict
		}{
			{eval.Checker{Type: eval.CheckFloats}, "pi 3.1415927\n", "pi 3.14159265", eval.Accepted},
			{eval.Checker{Type: eval.CheckFloats, Absolute: 0.01}, "3.15", "3.14", eval.Accepted},
			{eval.Checker{Type: eval.CheckFloats, Relative: 0.001}, "3.15", "3.14", eval.WrongAnswer},
			{eval.Checker{Type: eval.CheckRegex}, "took 12 ms\n", `took \d+ ms`, eval.Accepted},
			{eval.Checker{Type: eval.CheckRegex}, "it took 12 ms\n", `took \d+ ms`, eval.WrongAnswer},
			{eval.Checker{Type: eval.CheckJSON}, `{"b": [1, 2.0], "a": "x"}`, `{"a":"x","b":[1,2]}`, eval.Accepted},
			{eval.Checker{Type: eval.CheckJSON}, `[2, 1]`, `[1, 2]`, eval.WrongAnswer},
			{eval.Checker{Type: eval.CheckJSON}, `[1, `, `[1, 2]`, eval.WrongAnswer},
		} {
			res := one(c.checker, c.out, c.want)
			require.Equal(t, c.verdict, res.Verdict, "%+v: %s", c, res.Explanation)
			require.Equal(t, c.verdict == eval.Accepted, res.Tests[0].Message == "")
		}
		require.Contains(t, one(eval.Checker{}, "a\nb", "a\nc").Explanation, `line 2 is "b", expected "c"`)
	})
	t.Run("one for all, and a test's own", func(t *testing.T) {
		req := request("bash", "cat")
		req.Checker = eval.Checker{Type: eval.CheckTokens}
		req.Tests = []eval.Test{
			{Stdin: eval.Bytes("a\nb"), ExpectedStdout: expect("a b")},
			{Stdin: eval.Bytes("a\nb"), ExpectedStdout: expect("a b"), Checker: eval.Checker{Type: eval.CheckExact}},
		}
		res := r.run(t, req)
		require.Equal(t, eval.Accepted, res.Tests[0].Verdict)
		require.Equal(t, eval.WrongAnswer, res.Tests[1].Verdict)
	})
	t.Run("a program decides, and its failure is not the contestant's", func(t *testing.T) {
		req := request("bash", "read n; echo $((n % 100))")
		req.Checker = eval.Checker{Type: eval.CheckProgram, Language: "python", Code: eval.Bytes(judge), Limits: eval.Limits{CPUMS: 1000}}
		for _, n := range []string{"12003", "12007", "12013", "12014", "12015"} {
			req.Tests = append(req.Tests, eval.Test{Name: n, Stdin: eval.Bytes(n), ExpectedStdout: expect("50")})
		}
		res := r.run(t, req)
		got := make([]string, len(res.Tests))
		for i, c := range res.Tests {
			exit(t, eval.Result{Usage: c.Usage}, 0)
			got[i] = fmt.Sprintf("%s %s: %s", c.Verdict, c.Cause, c.Message)
		}
		require.Equal(t, "accepted : 12003 = 3 * 4001 + 0", got[0])
		require.Equal(t, "wrong_answer test: 12007 = 7 * 1715 + 2", got[1])
		require.Contains(t, got[2], "checker_error exit_code: ")
		require.Contains(t, got[2], "Exception: unlucky")
		require.Contains(t, got[3], "checker_error exit_code: The program ended with exit code 0, and a checker ends with 42")
		require.Contains(t, got[4], "checker_error cpu: ")
		require.Equal(t, eval.WrongAnswer, res.Verdict, "the first that fails decides")
		require.Contains(t, res.Explanation, "1715")

		req.Tests = req.Tests[2:3]
		req.ID += "b"
		res = r.run(t, req)
		require.Equal(t, eval.CheckerError, res.Verdict)
		require.Equal(t, eval.CauseExitCode, res.Cause)
	})
	t.Run("a program that is refused, and one that crashed is not checked", func(t *testing.T) {
		if !r.offered(t, "c") {
			t.Skip("no C compiler here")
		}
		req := request("bash", "exit $(cat)")
		req.Checker = eval.Checker{Type: eval.CheckProgram, Language: "c", Code: eval.Bytes("int main(void) { return nothing; }")}
		req.Tests = []eval.Test{{Stdin: eval.Bytes("0")}, {Stdin: eval.Bytes("3")}}
		res := r.run(t, req)
		require.Equal(t, eval.CheckerError, res.Verdict)
		require.Equal(t, eval.CauseCompile, res.Cause)
		require.Contains(t, res.Tests[0].Message, "nothing")
		require.Equal(t, eval.RuntimeError, res.Tests[1].Verdict)
		require.Nil(t, res.Compile, "it is the checker that was compiled")

		req = request("c", "#include <stdio.h>\nint main(void) { puts(\"seven\"); }")
		req.Checker = eval.Checker{Type: eval.CheckProgram, Language: "c", Entrypoint: "check.c", Files: map[string]eval.Bytes{
			"check.c": eval.Bytes("#include \"codes.h\"\n#include <stdio.h>\n#include <string.h>\nint main(void) { char b[9]; return scanf(\"%8s\", b) == 1 && !strcmp(b, \"seven\") ? AC : WA; }"),
			"codes.h": eval.Bytes("enum { AC = 42, WA = 43 };"),
		}}
		req.Tests = []eval.Test{{}, {}}
		res = r.run(t, req)
		require.Equal(t, eval.Accepted, res.Verdict, res.Explanation)
	})
}

// finder looks for what was expected wherever a program can look, but in the
// toolchains: its files, what the kernel tells of every process, its memory.
const finder = `import os, re, sys
needle, found, looked = re.compile(b"EXPECTED[0-9a-f]{16}"), set(), 0
def look(name, content):
    global looked
    looked += 1
    if needle.search(content): found.add(name)
for top, folders, names in os.walk("/"):
    folders[:] = [f for f in folders if not os.path.join(top, f).startswith(("/usr", "/lib", "/bin", "/sbin", "/proc/sys", sys.prefix))]
    for name in names:
        path = os.path.join(top, name)
        if path.startswith("/proc/") and path.endswith(("/mem", "/pagemap", "/clear_refs", "kmsg", "kcore", "/kpagecount", "/kpageflags", "/kpagecgroup")): continue
        try:
            look(path, os.readlink(path).encode() if os.path.islink(path) else b"")
            fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        except OSError: continue
        try: look(path, os.read(fd, 1 << 20))
        except OSError: pass
        finally: os.close(fd)
try:
    with open("/proc/self/maps") as maps, open("/proc/self/mem", "rb", 0) as mem:
        for line in maps.read().splitlines():
            low, high = (int(n, 16) for n in line.split()[0].split("-"))
            try:
                mem.seek(low)
                look("memory", mem.read(high - low))
            except (OSError, ValueError, OverflowError): pass
except OSError: pass # not every sandbox shows them
look("stdin", sys.stdin.buffer.read())
print(" ".join(sorted(found)))
`

func (r runner) secrets(t *testing.T) {
	secret := "EXPECTED0123456789abcdef"
	req := request("python", finder)
	req.Parallel = 2
	req.Tests = []eval.Test{
		{ExpectedStdout: expect(secret)},
		{ExpectedStdout: expect(secret), Checker: eval.Checker{Type: eval.CheckProgram, Language: "python", Code: eval.Bytes("import sys\nassert '" + secret + "' in open(sys.argv[2]).read()\nsys.exit(42)")}},
		{ExpectedStdout: expect(secret), Checker: eval.Checker{Type: eval.CheckRegex}},
		{ExpectedStdout: expect("stdin"), Stdin: eval.Bytes(secret)}, // what is there is found
		{ExpectedStdout: expect(secret)},
	}
	res := r.run(t, req)
	for i, c := range res.Tests {
		exit(t, eval.Result{Usage: c.Usage}, 0)
		want := ""
		if i == 3 {
			want = "stdin"
		}
		found := strings.Fields(string(c.Stdout.Data))
		require.Equal(t, want, strings.Join(found, " "), "test %d, %s", i, c.Stderr.Data)
	}
	require.Equal(t, eval.Accepted, res.Tests[1].Verdict, "the checker has it")
}

func (r runner) series(t *testing.T) {
	verdicts := func(res eval.Result) (all []eval.Verdict) {
		for _, c := range res.Tests {
			all = append(all, c.Verdict)
		}
		return all
	}
	t.Run("the rest is skipped after a failure", func(t *testing.T) {
		req := request("bash", "cat")
		req.StopOnFailure = true
		for i := range 4 {
			req.Tests = append(req.Tests, eval.Test{Name: fmt.Sprint(i), Stdin: eval.Bytes(fmt.Sprint(i)), ExpectedStdout: expect(fmt.Sprint(i % 2 * i))})
		}
		req.Tests[0].ExpectedStdout, req.Tests[2].Name = nil, "two"
		res := r.run(t, req)
		require.Equal(t, []eval.Verdict{eval.Accepted, eval.Accepted, eval.WrongAnswer, eval.Skipped}, verdicts(res))
		require.Equal(t, eval.WrongAnswer, res.Verdict)
		require.Equal(t, "3", res.Tests[3].Name)
		require.Zero(t, res.Tests[3].WallMS)
		require.Contains(t, res.Explanation, "Test 3 (two)")
	})
	t.Run("limits of a test", func(t *testing.T) {
		req := request("python", "import time\ntime.sleep(0.7)\nprint(len(bytearray(96 << 20)))")
		req.Limits = eval.Limits{WallMS: 10_000, MemoryBytes: 256 << 20}
		req.Tests = []eval.Test{{}, {Limits: eval.Limits{WallMS: 300}}, {Limits: eval.Limits{MemoryBytes: 64 << 20}}, {Limits: eval.Limits{OutputBytes: 3}}}
		res := r.run(t, req)
		require.Equal(t, []eval.Verdict{eval.Accepted, eval.TimeLimit, eval.MemoryLimit, eval.OutputLimit}, verdicts(res))
		require.Contains(t, res.Explanation, "300 ms")
	})
	t.Run("in parallel, in order", func(t *testing.T) {
		s, err := r.Status(t.Context())
		require.NoError(t, err)
		if s.Slots < 2 {
			t.Skip("one slot only")
		}
		req := request("python", "import time\nn = input()\ntime.sleep(1)\nprint(n)")
		req.Parallel = 4
		for i := range 4 {
			req.Tests = append(req.Tests, eval.Test{Stdin: eval.Bytes(fmt.Sprint(i)), ExpectedStdout: expect(fmt.Sprint(i))})
		}
		req.Tests[1].ExpectedStdout, req.Tests[3].ExpectedStdout = expect("no"), expect("no")
		began := time.Now()
		res := r.run(t, req)
		took, sum := time.Since(began), 0.0
		for _, c := range res.Tests {
			sum += c.WallMS
		}
		require.Less(t, float64(took.Milliseconds()), 0.9*sum, "one after another takes longer than all together")
		require.Equal(t, []eval.Verdict{eval.Accepted, eval.WrongAnswer, eval.Accepted, eval.WrongAnswer}, verdicts(res))
		require.Contains(t, res.Explanation, "Test 2")
		for i, c := range res.Tests {
			require.Equal(t, fmt.Sprint(i)+"\n", string(c.Stdout.Data))
		}
		r.idle(t)
	})
	t.Run("an end in between keeps what there was", func(t *testing.T) {
		for patience := time.Second; ; patience *= 2 {
			req := request("python", "import time\nn = input()\nif n == '1': time.sleep(60)\nprint(n)")
			req.Limits.WallMS = 60_000
			req.Tests = []eval.Test{{Stdin: eval.Bytes("0"), ExpectedStdout: expect("0")}, {Stdin: eval.Bytes("1")}, {Stdin: eval.Bytes("2")}}
			ctx, cancel := context.WithTimeoutCause(t.Context(), patience, errEnd)
			res, err := r.Run(ctx, req, nil)
			cancel()
			require.ErrorIs(t, err, errEnd)
			require.Empty(t, res.Verdict)
			if got := verdicts(res); len(got) == 3 && got[0] == eval.Skipped && patience < 16*time.Second {
				continue // the machine is busy: the first test had not ended either
			}
			require.Equal(t, []eval.Verdict{eval.Accepted, eval.Skipped, eval.Skipped}, verdicts(res))
			break
		}
	})
}
