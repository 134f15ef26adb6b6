package lang

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/crucible-eval/crucible/executor/internal/sandbox"
)

const (
	// cacheBox is where boxes have the cache of a language.
	cacheBox = "/opt/crucible/"
	// cacheTimeout bounds the making of one.
	cacheTimeout = 15 * time.Minute
	// cacheUnused is how long a cache of another toolchain is kept.
	cacheUnused = 30 * 24 * time.Hour
	// maxCacheOutput bounds what it prints.
	maxCacheOutput = 4 << 20
)

// prepareCache makes the language's cache in dir, if it is not there yet, and
// adds it to the toolchain. It is made beside its place and then moved, so
// that half of one is never used. A cache names its own place, so one in
// place is another than one that boxes have elsewhere.
func (t *Toolchain) prepareCache(ctx context.Context, dir string, inPlace bool) error {
	if t.Cache == nil {
		return nil
	}
	recipe, err := json.Marshal(t.Cache)
	if err != nil {
		return err
	}
	final := filepath.Join(dir, t.ID+"-"+digest(recipe, []byte(t.tools)))
	box := cacheBox + t.ID
	if inPlace {
		final += "-in-place"
		box = final
	}
	t.sweep(dir, final)
	if _, err := os.Stat(final); errors.Is(err, fs.ErrNotExist) {
		if err := t.makeCache(ctx, dir, final, box); err != nil {
			return fmt.Errorf("prepare its standard library: %w", err)
		}
	} else if err != nil {
		return err
	}
	now := time.Now()
	_ = os.Chtimes(final, now, now) // it is in use
	t.Binds = append(t.Binds, sandbox.Bind{Host: final, Box: box})
	t.vars["cache"] = box
	return nil
}

// sweep removes caches of the language that no executor has used for long,
// and what was left half made.
func (t *Toolchain) sweep(dir, keep string) {
	names, _ := filepath.Glob(filepath.Join(dir, t.ID+"-*"))
	for _, name := range names {
		info, err := os.Stat(name)
		if err == nil && info.IsDir() && name != keep && time.Since(info.ModTime()) > cacheUnused {
			_ = os.RemoveAll(name)
		}
	}
}

func (t *Toolchain) makeCache(ctx context.Context, dir, final, box string) (err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(dir, t.ID+"-making-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(tmp)) }()
	if err := os.Chmod(tmp, 0o755); err != nil {
		return err
	}
	vars := maps.Clone(t.vars)
	vars["cache"] = tmp
	env := map[string]string{}
	for name, value := range t.Cache.Env {
		env[name] = substitute(value, vars)
	}
	argv := expand(t.Cache.Argv, vars, nil)
	ctx, cancel := context.WithTimeout(ctx, cacheTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Dir, cmd.Env, cmd.WaitDelay = tmp, hostEnv(env), time.Second
	var out bytes.Buffer
	var errs capped
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w: %s", argv[0], err, strings.TrimSpace(errs.String()))
	}
	if out.Len() > maxCacheOutput {
		return fmt.Errorf("%s printed %d bytes", argv[0], out.Len())
	}
	if t.Cache.Stdout != "" {
		text := strings.ReplaceAll(out.String(), tmp, box)
		if err := os.WriteFile(filepath.Join(tmp, t.Cache.Stdout), []byte(text), 0o644); err != nil {
			return err
		}
	}
	if err := os.Rename(tmp, final); err != nil {
		if _, other := os.Stat(final); other == nil {
			return nil // another executor was faster
		}
		return err
	}
	return nil
}

// proofs remembers which toolchains passed their smoke test in which sandbox.
// An empty dir remembers nothing. It is a shortcut only: what cannot be read
// or written is not there.
type proofs struct {
	dir, sandbox string
}

func (p proofs) file(t *Toolchain) string {
	return filepath.Join(p.dir, "proof-"+t.ID+"-"+digest([]byte(t.stamp), []byte(p.sandbox))+".json")
}

func (p proofs) recall(t *Toolchain) (known Proof, ok bool) {
	if p.dir == "" {
		return Proof{}, false
	}
	raw, err := os.ReadFile(p.file(t))
	if err != nil || json.Unmarshal(raw, &known) != nil {
		return Proof{}, false
	}
	return known, true
}

func (p proofs) forget(t *Toolchain) {
	if p.dir != "" {
		_ = os.Remove(p.file(t))
	}
}

func (p proofs) remember(t *Toolchain, seen Proof) {
	if p.dir == "" {
		return
	}
	raw, err := json.Marshal(seen)
	if err == nil && os.MkdirAll(p.dir, 0o755) == nil {
		_ = os.WriteFile(p.file(t), raw, 0o644)
	}
}
