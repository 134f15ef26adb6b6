package executor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	"github.com/crucible-eval/crucible/executor/internal/lang"
	"github.com/crucible-eval/crucible/executor/internal/sandbox"
	"github.com/crucible-eval/crucible/pkg/eval"
)

// MaybeInit makes this process a part of the sandbox, if it was started as
// one; it does not return then. Call it first in main, and first in TestMain.
func MaybeInit() { sandbox.MaybeInit() }

// DefaultPatience is how long a run waits for a slot before it is refused.
const DefaultPatience = 100 * time.Millisecond

// DefaultProveEvery is how often the sandbox proves itself; it costs two tenths
// of a second of one core.
const DefaultProveEvery = 5 * time.Minute

// DefaultWarm is how far an executor goes to spare a run the start of its
// interpreter: ADR 0024.
const DefaultWarm = eval.WarmFork

// Config is what Open needs. The zero value is good: it offers every language
// that is installed, with a slot for each core.
type Config struct {
	// Name is how the executor calls itself; empty: host and process id.
	Name    string
	Version string
	// CacheDir keeps what is made once for each toolchain, such as Go's compiled
	// standard library, and which smoke tests passed. Empty: "crucible" in the
	// user's cache folder, or in /var/cache for root at the levels landlock and
	// none; where there is none, a temporary folder.
	CacheDir string
	// LanguagesDir has YAML files of more languages. Empty: none.
	LanguagesDir string
	// Languages are the ids to offer. Empty: all.
	Languages []string
	// OnLanguage, when not nil, has each toolchain proven anew when the executor
	// opens, and is told how it did. It may be called concurrently.
	OnLanguage func(LanguageReport)

	Slots       int           // runs at once; 0: the number of cores
	MemoryBytes int64         // for all runs together; 0: three quarters of the machine's
	Patience    time.Duration // how long a run may wait for a slot; 0: DefaultPatience; negative: not at all
	Policy      *eval.Policy  // nil: eval.DefaultPolicy
	// MinIsolation is the weakest level to run at: Open fails below it, and
	// never runs weaker. Empty: any that the sandbox offers.
	MinIsolation string

	// ProveEvery is how often the sandbox has to prove again what it isolates;
	// 0: DefaultProveEvery, negative: only when a box failed.
	ProveEvery time.Duration

	// Isolation is the level to run at, and no other. Empty: the strongest of
	// namespaces, namespaces-rlimit and landlock that this machine allows.
	Isolation string
	// AllowUnsafe lets the level "none" be asked for.
	AllowUnsafe bool
	// RunscPath is gVisor's program, for the level "gvisor". Empty: "runsc"
	// beside the executable or in PATH.
	RunscPath string
	// Warm is how far to go to spare runs the start of their interpreter. Empty:
	// DefaultWarm. A language or a sandbox that cannot go as far goes less far.
	Warm eval.Warm

	// InitPath is the sandbox's: see its Config.
	InitPath string
}

// LanguageReport says how a toolchain did in its smoke test.
type LanguageReport struct {
	ID        string  `json:"id"`
	OK        bool    `json:"ok"`
	Version   string  `json:"version,omitempty"`
	Path      string  `json:"path,omitempty"` // of the toolchain's first tool
	CompileMS float64 `json:"compile_ms,omitempty"`
	RunMS     float64 `json:"run_ms,omitempty"`
	Problem   string  `json:"problem,omitempty"` // why it is not offered
}

// Survey tries out every level of isolation on this machine, the strongest
// first, and tells what speaks against each.
func Survey(ctx context.Context, c Config) []sandbox.Offer {
	return sandbox.Survey(ctx, sandbox.Config{RunscPath: c.RunscPath, InitPath: c.InitPath, Logger: slog.New(slog.DiscardHandler)})
}

func (c Config) filled() (Config, error) {
	if c.Slots < 0 || c.MemoryBytes < 0 {
		return c, errors.New("executor: slots and memory cannot be negative; 0 takes what this machine has")
	}
	for _, level := range []string{c.Isolation, c.MinIsolation} {
		if level != "" && !slices.Contains(eval.IsolationLevels(), level) {
			return c, fmt.Errorf("executor: isolation level %q is not one of %v", level, eval.IsolationLevels())
		}
	}
	c.Warm = cmp.Or(c.Warm, DefaultWarm)
	if !slices.Contains(eval.WarmModes(), c.Warm) {
		return c, fmt.Errorf("executor: warm %q is not one of %v", c.Warm, eval.WarmModes())
	}
	if c.Name == "" {
		host, _ := os.Hostname()
		c.Name = fmt.Sprintf("%s-%d", cmp.Or(host, "executor"), os.Getpid())
	}
	if c.Policy == nil {
		policy := eval.DefaultPolicy()
		c.Policy = &policy
	}
	c.Slots = cmp.Or(c.Slots, runtime.NumCPU())
	c.ProveEvery = max(cmp.Or(c.ProveEvery, DefaultProveEvery), 0)
	c.Patience = max(cmp.Or(c.Patience, DefaultPatience), 0)
	if c.MemoryBytes == 0 {
		c.MemoryBytes = machineMemory() / 4 * 3
	}
	return c, nil
}

// report passes on what was found out about a toolchain.
func (c Config) report(r lang.Report) {
	if c.OnLanguage == nil {
		return
	}
	said := LanguageReport{
		ID: r.ID, OK: r.Err == nil, Version: r.Proof.Version, Path: r.Path, CompileMS: r.Proof.CompileMS, RunMS: r.Proof.RunMS,
	}
	if r.Err != nil {
		said.Problem = r.Err.Error()
	}
	c.OnLanguage(said)
}

// rootCache is where root has caches that programs read in place: they are
// strangers to root's home.
const rootCache = "/var/cache/crucible"

// cacheDir returns the folder for caches, which programs read in place or not,
// and what removes it again when it is a temporary one.
func (c Config) cacheDir(inPlace bool) (dir string, remove func() error, err error) {
	nothing := func() error { return nil }
	if c.CacheDir != "" {
		dir, err = filepath.Abs(c.CacheDir)
		return dir, nothing, err
	}
	if inPlace && os.Geteuid() == 0 && os.MkdirAll(rootCache, 0o755) == nil {
		return rootCache, nothing, nil
	}
	if user, err := os.UserCacheDir(); err == nil {
		dir = filepath.Join(user, "crucible")
		if os.MkdirAll(dir, 0o755) == nil {
			return dir, nothing, nil
		}
	}
	dir, err = os.MkdirTemp("", "crucible-executor-")
	return dir, func() error { return os.RemoveAll(dir) }, err
}
