package bench

import (
	"maps"
	"slices"

	"github.com/crucible-eval/crucible/pkg/eval"
)

// hello is the program that also runs bare.
const hello = "hello"

const helloCode = `print("hello, world")` + "\n"

var programs = map[string]struct {
	program eval.Program
	stdout  string
}{
	hello:        {eval.Program{Language: "python", Code: eval.Bytes(helloCode)}, "hello, world\n"},
	"bash":       {eval.Program{Language: "bash", Code: eval.Bytes("echo $((6 * 7))\n")}, "42\n"},
	"javascript": {eval.Program{Language: "javascript", Code: eval.Bytes("console.log([3, 1, 2].sort().join());\n")}, "1,2,3\n"},
	"sum":        {eval.Program{Language: "python", Code: eval.Bytes("print(sum(i * i for i in range(100000)))\n")}, "333328333350000\n"},
}

// Programs lists what can be measured.
func Programs() []string { return slices.Sorted(maps.Keys(programs)) }
