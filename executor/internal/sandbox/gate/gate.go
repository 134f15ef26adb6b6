// Package gate holds the scripts behind which a warm interpreter waits.
//
// An interpreter is started in a box before its program is known. It runs one
// of these scripts on its way, by its own means of start-up code, and blocks in
// it. When the program has been written, it is let go on, and does what it was
// started for: it opens and runs the program's file by itself, so that
// tracebacks, syntax errors, exit codes and __main__ are its own.
//
// Every root has the scripts, so that boxes look the same warm and cold. They
// do nothing where EnvGate is not set.
package gate

import (
	_ "embed"
	"fmt"
)

// Dir is where boxes have the scripts: python/sitecustomize.py, for a folder
// in PYTHONPATH, and node.js, for --require.
const Dir = "/.gate"

// Names and the descriptor by which a script knows that it has to wait.
const (
	EnvGate = "CRUCIBLE_GATE" // the number of the descriptor to wait on; after "fork ", for copies
	FD      = 3
)

var (
	//go:embed python/sitecustomize.py
	python string
	//go:embed python/crucible_zygote.py
	zygote string
	//go:embed node.js
	node string
)

// Files are the scripts by their paths below Dir.
func Files() map[string]string {
	return map[string]string{"python/sitecustomize.py": python, "python/crucible_zygote.py": zygote, "node.js": node}
}

// Release is what a waiting interpreter learns when it is let go on.
type Release struct {
	Rlimits [][2]int64 // for a copy: numbers of resources, and the most of each
	Args    []string   // more arguments of the program
	Env     []string   // "KEY=value", beside those that it was started with
}

// Bytes is the release as the scripts read it, up to the end of their
// descriptor: the numbers of limits and of arguments, these, and the variables,
// each ended by a NUL byte.
func (r *Release) Bytes() []byte {
	b := fmt.Appendf(nil, "%d\x00%d\x00", len(r.Rlimits), len(r.Args))
	for _, l := range r.Rlimits {
		b = fmt.Appendf(b, "%d %d\x00", l[0], l[1])
	}
	for _, list := range [][]string{r.Args, r.Env} {
		for _, s := range list {
			b = append(append(b, s...), 0)
		}
	}
	return b
}
