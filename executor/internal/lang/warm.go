package lang

import (
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/crucible-eval/crucible/executor/internal/sandbox"
	"github.com/crucible-eval/crucible/pkg/eval"
)

// warmMemory is the least memory limit with which a program gets a warm
// interpreter: what that holds must fit, and the stacks of its threads are as
// for the default limits.
const warmMemory = 64 << 20

func (w *Warm) check(d *Definition) error {
	if d.Compile != nil {
		return errors.New("warm: only for interpreted languages")
	}
	for _, mode := range w.Modes {
		if mode == eval.WarmOff || !slices.Contains(eval.WarmModes(), mode) {
			return fmt.Errorf("warm: mode %q is not prestart or fork", mode)
		}
	}
	for _, pattern := range w.ColdEnv {
		if _, err := path.Match(pattern, ""); err != nil {
			return fmt.Errorf("warm: cold_env %q: %w", pattern, err)
		}
	}
	return nil
}

// CanBeWarm tells whether a program may meet an interpreter that was started
// in this mode before it was known.
func (t *Toolchain) CanBeWarm(mode eval.Warm, p *eval.Program, s Source, memory int64) bool {
	if t.Definition.Warm == nil || !slices.Contains(t.Definition.Warm.Modes, mode) ||
		s.Entrypoint != t.Definition.Source || memory < warmMemory {
		return false
	}
	for name := range s.Files {
		if strings.HasPrefix(name, ".") {
			return false // the work folder is the home folder: it may be read at the start
		}
	}
	for name := range p.Env {
		if slices.ContainsFunc(t.Definition.Warm.ColdEnv, func(pattern string) bool {
			match, _ := path.Match(pattern, name)
			return match
		}) {
			return false
		}
	}
	return true
}

// WarmMemory is the memory limit that the start of an interpreter depends on,
// or 0 where it depends on none.
func (t *Toolchain) WarmMemory(limit int64) int64 {
	for _, arg := range t.start() {
		if strings.Contains(arg, "${memory_mib}") || strings.Contains(arg, "${heap_mib}") {
			return limit
		}
	}
	return 0
}

// Interpreter is what to start for programs with this memory limit, as
// WarmMemory gives it.
func (t *Toolchain) Interpreter(memory int64) *sandbox.Warm {
	s := Source{Entrypoint: t.Definition.Source, MemoryBytes: memory}
	w := &sandbox.Warm{
		Start: expand(t.start(), t.with(s), nil), Args: t.Command(s, nil), Env: t.Environ(nil),
	}
	for _, name := range slices.Sorted(maps.Keys(t.Definition.Warm.Env)) {
		w.Gate = append(w.Gate, name+"="+substitute(t.Definition.Warm.Env[name], t.vars))
	}
	return w
}

func (t *Toolchain) start() []string {
	if len(t.Definition.Warm.Start) > 0 {
		return t.Definition.Warm.Start
	}
	return t.Run
}
