package abuse

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/crucible-eval/crucible/pkg/eval"
)

func compileCases() []Case {
	refusedBy := func(more ...eval.Cause) Promise {
		p := uncompiled
		for _, cause := range more {
			p = p.or(ended(eval.CompileError, cause))
		}
		return p.and(cleanLog)
	}
	tooMuch := refusedBy(eval.CauseCompileTime, eval.CauseCompileMem, eval.CauseCompileOut, eval.CauseDisk)
	slow := atGVisor(tooMuch) // a compiler may not get as far as its error there
	c := func(code string) eval.Program { return source("c", code, eval.Limits{}) }
	return []Case{
		{Name: `#include "/dev/random"`, Does: "includes a device that never ends", Program: c("#include \"/dev/random\"\nint main() {}"), Want: tooMuch},
		{Name: `#include "/dev/stdin"`, Does: "includes what somebody would have to type", Program: c("#include \"/dev/stdin\"\nint main() {}"), Want: harmless.or(uncompiled)},
		{Name: `#include "/etc/shadow"`, Does: "has the host's files printed as errors", Program: c("#include \"/etc/shadow\"\n#include \"${file}\"\nint main() {}"), Want: refusedBy(), At: slow},
		{Name: "#include of itself", Does: "includes itself for ever", Program: c("#include __FILE__\n#include __FILE__\nint main() {}"), Want: tooMuch},
		{Name: ".incbin", Does: "has the assembler embed the host's files", Program: c(`__asm__(".incbin \"/etc/shadow\"\n.incbin \"${file}\""); int main() {}`), Want: refusedBy(), At: slow},
		{Name: "#embed", Does: "has the compiler embed them", Program: c("char a[] = {\n#embed \"/etc/shadow\"\n};\nint main() {}"), Want: refusedBy(), At: slow},
		{Name: "int main[1<<30]", Does: "a program of 4 GiB", Program: c("int main[1<<30] = {1};"), Want: tooMuch},
		{Name: "10^8 errors", Does: "an error for each of very many lines", Program: c(errorsWithoutEnd()), Want: tooMuch},
		{Name: "macro bomb", Does: "a macro that doubles forty times", Program: c(macroBomb(40)), Want: tooMuch},
		{Name: "assembler bomb", Does: "fills the disk with .fill", Program: c(`__asm__(".fill 1<<40, 1, 0"); int main() {}`), Want: tooMuch},
		{
			Name: "file names as options", Does: "files that are called like options and response files",
			Program: eval.Program{Language: "c", Entrypoint: "-wrapper,sh.c", Files: map[string]eval.Bytes{
				"-wrapper,sh.c": eval.Bytes("int main() { return 0; }"), "@evil.c": eval.Bytes("int evil;"), "--help.c": eval.Bytes("int help;"),
			}}, Want: harmless, At: atGVisor(harmless.or(ended(eval.CompileError, eval.CauseCompileTime))),
		},
		{
			Name: "template recursion", Does: "a template that needs itself, larger each time",
			Program: source("cpp", "template <class T> struct A { static const int v = A<A<T>>::v + A<T*>::v; };\nint main() { return A<int>::v; }", eval.Limits{}), Want: tooMuch,
		},
		{
			Name: "constant that never ends", Does: "a constant expression that loops",
			Program: source("cpp", "constexpr int f() { int n = 0; for (;;) n = n ? 0 : 1; return n; }\nconstexpr int v = f();\nint main() {}", eval.Limits{}), Want: tooMuch,
		},
	}
}

// cleanLog checks that nothing of the host is in the compiler's log, and that
// the log is not endless.
func cleanLog(r eval.Result) error {
	if r.Compile == nil {
		return fmt.Errorf("there is no compiler's log")
	}
	for _, s := range []eval.Stream{r.Compile.Stdout, r.Compile.Stderr} {
		if bytes.Contains(s.Data, []byte(strings.Join(Secret[:], "-"))) || bytes.Contains(s.Data, []byte("root:")) {
			return fmt.Errorf("the log has something of the host: %.200q", s.Data)
		}
		if len(s.Data) > 1<<20 {
			return fmt.Errorf("the log has %d bytes", len(s.Data))
		}
	}
	return nil
}

func macroBomb(doublings int) string {
	var b strings.Builder
	b.WriteString("#define A0 1+\n")
	for i := range doublings {
		fmt.Fprintf(&b, "#define A%d A%d A%d\n", i+1, i, i)
	}
	fmt.Fprintf(&b, "int main() { return A%d 0; }\n", doublings)
	return b.String()
}

// errorsWithoutEnd is a small program with ten million errors.
func errorsWithoutEnd() string {
	var b strings.Builder
	b.WriteString("#define E0 undeclared();\n#define E1 E0 E0 E0 E0 E0 E0 E0 E0 E0 E0\n")
	for i := range 7 {
		fmt.Fprintf(&b, "#define E%d E%d E%d E%d E%d E%d E%d E%d E%d E%d E%d\n", i+2, i+1, i+1, i+1, i+1, i+1, i+1, i+1, i+1, i+1, i+1)
	}
	b.WriteString("int a = E8 ;\n")
	return b.String()
}
