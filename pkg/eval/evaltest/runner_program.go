package evaltest

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/pkg/eval"
)

func (r runner) program(t *testing.T) {
	t.Run("stdin", func(t *testing.T) {
		req := request("python", "import sys\ndata = sys.stdin.buffer.read()\nprint(len(data), data[:3], data[-3:])")
		req.Stdin = append([]byte{0, 255, '\n'}, make([]byte, 300_000)...)
		require.Equal(t, "300003 b'\\x00\\xff\\n' b'\\x00\\x00\\x00'\n", string(r.run(t, req).Stdout.Data))
	})
	t.Run("stdin that nobody reads", func(t *testing.T) {
		req := request("python", "print('ok')")
		req.Stdin = make([]byte, 1<<20)
		require.Equal(t, "ok\n", string(r.run(t, req).Stdout.Data))
	})
	t.Run("no stdin is an empty one", func(t *testing.T) {
		require.Equal(t, "0\n", string(r.run(t, request("python", "import sys\nprint(len(sys.stdin.read()))")).Stdout.Data))
	})
	t.Run("900 kB of code", func(t *testing.T) {
		code := "x = '" + strings.Repeat("a", 900_000) + "'\nprint(len(x))"
		require.Equal(t, "900000\n", string(r.run(t, request("python", code)).Stdout.Data))
	})
	t.Run("args and env", func(t *testing.T) {
		req := request("python", "import os, sys\nprint(sys.argv[1:], os.environ['GREETING'], 'CRUCIBLE_SECRET' in os.environ)")
		req.Args = []string{"a b", "", "$(id)", "--x"}
		req.Env = map[string]string{"GREETING": "hi 'there'\n"}
		require.Equal(t, "['a b', '', '$(id)', '--x'] hi 'there'\n False\n", string(r.run(t, req).Stdout.Data))
	})
	t.Run("the environment is made from nothing", func(t *testing.T) {
		t.Setenv("CRUCIBLE_SECRET", "s3cret")
		res := r.run(t, request("bash", "compgen -e"))
		require.NotContains(t, string(res.Stdout.Data), "CRUCIBLE_SECRET")
	})
	t.Run("several files", func(t *testing.T) {
		req := request("python", "")
		req.Code = nil
		req.Files = map[string]eval.Bytes{
			"app/main.py": eval.Bytes("import sys\nsys.path.insert(0, '/w')\nfrom lib.deep import f\nprint(f(), open('data.txt').read())"),
			"lib/deep.py": eval.Bytes("def f(): return 'deep'"), "data.txt": eval.Bytes("data"),
		}
		req.Entrypoint = "app/main.py"
		require.Equal(t, "deep data\n", string(r.run(t, req).Stdout.Data))
	})
	t.Run("one file needs no entrypoint", func(t *testing.T) {
		req := request("bash", "")
		req.Code, req.Files = nil, map[string]eval.Bytes{"-x.sh": eval.Bytes("echo named")}
		require.Equal(t, "named\n", string(r.run(t, req).Stdout.Data))
	})
	t.Run("runs share nothing", func(t *testing.T) {
		code := "import os\nprint(sorted(os.listdir('/w')), sorted(os.listdir('/tmp')))\nopen('/w/left', 'w').close()\nopen('/tmp/left', 'w').close()"
		for range 2 {
			require.Equal(t, "['main.py'] []\n", string(r.run(t, request("python", code)).Stdout.Data))
		}
	})
}

func expect(s string) *eval.Bytes { b := eval.Bytes(s); return &b }

func (r runner) tests(t *testing.T) {
	t.Run("verdicts and figures", func(t *testing.T) {
		req := request("python", "import sys\nn = int(input())\nif n == 3: sys.exit(7)\nprint(n * 2)\n")
		req.Tests = []eval.Test{
			{Name: "two", Stdin: eval.Bytes("2\n"), ExpectedStdout: expect("4")},
			{Name: "wrong", Stdin: eval.Bytes("5\n"), ExpectedStdout: expect("11")},
			{Name: "exits", Stdin: eval.Bytes("3\n"), ExpectedStdout: expect("6")},
			{Stdin: eval.Bytes("8\n")},
		}
		res := r.run(t, req)
		require.Len(t, res.Tests, 4)
		var got []string
		for _, c := range res.Tests {
			got = append(got, fmt.Sprintf("%s %s %s", c.Name, c.Verdict, c.Cause))
			require.Positive(t, c.WallMS)
			require.LessOrEqual(t, c.WallMS, res.WallMS)
		}
		require.Equal(t, []string{"two accepted ", "wrong wrong_answer test", "exits runtime_error exit_code", " accepted "}, got)
		require.Equal(t, eval.WrongAnswer, res.Verdict, "the first that fails decides")
		require.Equal(t, eval.CauseTest, res.Cause)
		exit(t, res, 0)
		require.Equal(t, "10\n", string(res.Tests[1].Stdout.Data))
		require.Empty(t, res.Stdout.Data)
		require.Contains(t, res.Explanation, "wrong")
	})
	t.Run("checkers", func(t *testing.T) {
		for _, c := range []struct {
			checker  eval.CheckerType
			out, say string
			want     eval.Verdict
		}{
			{"", "a \nb\n\n", "a\nb", eval.Accepted},
			{eval.CheckLines, "a\r\nb", "a\nb\n", eval.Accepted},
			{eval.CheckLines, "a b", "a  b", eval.WrongAnswer},
			{eval.CheckLines, " a", "a", eval.WrongAnswer},
			{eval.CheckLines, "a\n\nb", "a\nb", eval.WrongAnswer},
			{eval.CheckLines, "", "\n\n", eval.Accepted},
			{eval.CheckExact, "a\n", "a", eval.WrongAnswer},
			{eval.CheckExact, "a\n", "a\n", eval.Accepted},
			{eval.CheckTokens, " a\n b ", "a b", eval.Accepted},
			{eval.CheckTokens, "ab", "a b", eval.WrongAnswer},
			{eval.CheckTokens, "a b c", "a b", eval.WrongAnswer},
		} {
			req := request("bash", "cat")
			req.Tests = []eval.Test{{Stdin: eval.Bytes(c.out), ExpectedStdout: expect(c.say), Checker: eval.Checker{Type: c.checker}}}
			require.Equal(t, c.want, r.run(t, req).Verdict, "%+v", c)
		}
	})
	t.Run("each with its args, in a folder of its own", func(t *testing.T) {
		req := request("python", "import os, sys\nprint(sys.argv[1:], sorted(os.listdir('.')))\nopen('left', 'w').close()")
		req.Args = []string{"all"}
		req.Tests = []eval.Test{{Args: []string{"own"}}, {}}
		res := r.run(t, req)
		require.Equal(t, "['own'] ['main.py']\n", string(res.Tests[0].Stdout.Data))
		require.Equal(t, "['all'] ['main.py']\n", string(res.Tests[1].Stdout.Data))
		require.Equal(t, eval.Accepted, res.Verdict)
	})
	t.Run("limits hold for each", func(t *testing.T) {
		req := request("python", "import time\ntime.sleep(float(input()))\nprint('ok')")
		req.Limits.WallMS = 3000
		req.Tests = []eval.Test{{Stdin: eval.Bytes("1.6")}, {Stdin: eval.Bytes("1.6")}, {Stdin: eval.Bytes("9")}}
		res := r.run(t, req)
		require.Equal(t, eval.Accepted, res.Tests[1].Verdict)
		require.Equal(t, eval.TimeLimit, res.Tests[2].Verdict)
		require.Equal(t, eval.TimeLimit, res.Verdict)
		require.Equal(t, eval.CauseWall, res.Cause)
	})
}

// offered tells whether a language is there, once it has been checked.
func (r runner) offered(t *testing.T, id string) bool {
	t.Helper()
	for _, l := range r.listed(t) {
		if l.ID == id {
			return l.Available
		}
	}
	return false
}

// listed waits until every language has been checked. It may take as long as
// a standard library takes to compile.
func (r runner) listed(t *testing.T) []eval.Language {
	t.Helper()
	var list []eval.Language
	require.Eventually(t, func() bool {
		s, err := r.Status(t.Context())
		require.NoError(t, err)
		list = s.Languages
		for _, l := range list {
			if !l.Available && l.Problem == "being checked" {
				return false
			}
		}
		return true
	}, 5*time.Minute, 50*time.Millisecond)
	return list
}

func (r runner) compile(t *testing.T) {
	if !r.offered(t, "c") {
		t.Skip("no C compiler here")
	}
	t.Run("the compiler refuses", func(t *testing.T) {
		res := r.run(t, request("c", "int main(void) { return nothing; }"))
		require.Equal(t, eval.CompileError, res.Verdict)
		require.Equal(t, eval.CauseCompile, res.Cause)
		require.NotNil(t, res.Compile)
		require.Contains(t, string(res.Compile.Stderr.Data), "nothing")
		require.Equal(t, 1, *res.Compile.ExitCode)
		require.Nil(t, res.ExitCode, "it never ran")
		require.Zero(t, res.WallMS)
		require.NotEmpty(t, res.Explanation)
	})
	t.Run("compiles and then fails", func(t *testing.T) {
		res := r.run(t, request("c", "#include <stdlib.h>\nint main(void) { abort(); }"))
		require.Equal(t, eval.RuntimeError, res.Verdict)
		require.Equal(t, "SIGABRT", res.Signal)
		require.Equal(t, 0, *res.Compile.ExitCode)
	})
	t.Run("stack overflow", func(t *testing.T) {
		res := r.run(t, request("c", "int f(volatile int n) { volatile char b[1024]; b[0] = n; return f(n + 1) + b[0]; }\nint main(void) { return f(0); }"))
		require.Equal(t, eval.RuntimeError, res.Verdict)
		require.Equal(t, "SIGSEGV", res.Signal)
	})
	t.Run("host files cannot be included", func(t *testing.T) {
		res := r.run(t, request("c", "#include \"/etc/shadow\"\nint main(void) { return 0; }"))
		require.Equal(t, eval.CompileError, res.Verdict)
		require.NotContains(t, string(res.Compile.Stderr.Data), "root:")
	})
	t.Run("a log without end", func(t *testing.T) {
		res := r.run(t, request("c", "#include __FILE__\nint main(void) { return 0; }"))
		require.Equal(t, eval.CompileError, res.Verdict)
	})
	t.Run("files and tests, compiled once", func(t *testing.T) {
		req := request("c", "")
		req.Code, req.Entrypoint = nil, "main.c"
		req.Files = map[string]eval.Bytes{
			"main.c":  eval.Bytes("#include <stdio.h>\n#include \"twice.h\"\nint main(void) { int n; if (scanf(\"%d\", &n) == 1) printf(\"%d\\n\", twice(n)); }"),
			"twice.h": eval.Bytes("int twice(int);"), "lib/twice.c": eval.Bytes("int twice(int n) { return 2 * n; }"),
		}
		req.Tests = []eval.Test{{Stdin: eval.Bytes("2"), ExpectedStdout: expect("4")}, {Stdin: eval.Bytes("4"), ExpectedStdout: expect("8")}}
		res := r.run(t, req)
		require.Equal(t, eval.Accepted, res.Verdict, "%s", res.Explanation)
		require.Positive(t, res.Compile.WallMS)
	})
}

// readers print what they read: each language's way to copy its input.
var readers = map[string]string{
	"python": "import sys\nsys.stdout.write(sys.stdin.read())", "bash": "cat",
	"javascript": "process.stdout.write(require('fs').readFileSync(0))",
	"perl":       "print while <STDIN>;", "ruby": "print STDIN.read",
	"c":    "#include <stdio.h>\nint main(void) { int c; while ((c = getchar()) != EOF) putchar(c); }",
	"cpp":  "#include <iostream>\nint main() { std::cout << std::cin.rdbuf(); }",
	"go":   "package main\nimport (\"io\"; \"os\")\nfunc main() { io.Copy(os.Stdout, os.Stdin) }",
	"java": "public class Main { public static void main(String[] a) throws Exception { System.in.transferTo(System.out); } }",
	"php":  "<?php echo stream_get_contents(STDIN);", "lua": "io.write(io.read('a'))", "awk": "{ print }",
	"tcl":        "fconfigure stdin -translation binary; fconfigure stdout -translation binary; puts -nonewline [read stdin]",
	"typescript": "process.stdout.write(require('fs').readFileSync(0));", "haskell": "main = interact id",
	"rust": "fn main() { std::io::copy(&mut std::io::stdin(), &mut std::io::stdout()).unwrap(); }",
}

func (r runner) languages(t *testing.T) {
	for _, l := range r.listed(t) {
		t.Run(l.ID, func(t *testing.T) {
			require.NotEmpty(t, l.Name)
			require.NotEmpty(t, l.SourceFile)
			require.NotEmpty(t, l.Example)
			if !l.Available {
				require.NotEmpty(t, l.Problem)
				t.Skip(l.Problem)
			}
			require.NotEmpty(t, l.Version)
			res := r.run(t, request(l.ID, l.Example))
			require.Equal(t, eval.Accepted, res.Verdict, "%s", res.Stderr.Data)
			require.Equal(t, "hello\n", string(res.Stdout.Data))
			require.Equal(t, l.Compiled, res.Compile != nil)
			require.Equal(t, l.Version, res.Language.Version)
			reader, ok := readers[l.ID]
			if !ok {
				return
			}
			for _, alias := range l.Aliases {
				req := request(alias, reader)
				req.Stdin = eval.Bytes("one\ntwo \xc3\xa4\n")
				res, err := r.Run(t.Context(), req, nil)
				require.NoError(t, err)
				require.Equal(t, l.ID, res.Language.ID)
				require.Equal(t, req.Stdin, eval.Bytes(res.Stdout.Data), "%s", res.Explanation)
				break // the others are only names
			}
		})
	}
}
