package lang

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/crucible-eval/crucible/executor/internal/sandbox"
	"github.com/crucible-eval/crucible/pkg/eval"
)

// Prove runs a language's version command and smoke test in the sandbox. The
// error says what a person has to know.
type Prove func(ctx context.Context, t *Toolchain) (version string, err error)

// checkingProblem is what a language says of itself until it is proven.
const checkingProblem = "being checked"

// provers is how many languages are proven at once.
const provers = 2

// proveTimeout bounds one language's proof, its cache not counted.
const proveTimeout = 2 * time.Minute

// proveTries is how often a language is tried when the sandbox fails it.
const proveTries = 3

// Options are what Start needs.
type Options struct {
	Definitions []*Definition
	CacheDir    string // for caches; must exist or be makeable
	Remember    bool   // keep proofs in CacheDir between starts
	Sandbox     string // names the sandbox; a proof holds only for the same
	Prove       Prove
	Logger      *slog.Logger
}

// Registry holds the languages, and proves them in the background.
type Registry struct {
	opt     Options
	proofs  proofs
	entries []*entry
	names   map[string]*entry
	stop    context.CancelFunc
	work    sync.WaitGroup
}

type entry struct {
	def   *Definition
	known chan struct{} // closed when the rest is set

	toolchain *Toolchain // nil: not available
	problem   string
}

// Start begins to prove the languages, quick ones first. It does not wait.
func Start(opt Options) *Registry {
	ctx, stop := context.WithCancel(context.Background())
	r := &Registry{opt: opt, stop: stop, names: map[string]*entry{}}
	if opt.Remember {
		r.proofs = proofs{opt.CacheDir, opt.Sandbox}
	}
	for _, d := range opt.Definitions {
		e := &entry{def: d, known: make(chan struct{})}
		r.entries = append(r.entries, e)
		for _, name := range append([]string{d.ID}, d.Aliases...) {
			r.names[name] = e
		}
	}
	order := slices.Clone(r.entries)
	slices.SortStableFunc(order, func(a, b *entry) int { return cmp.Compare(rank(a.def), rank(b.def)) })
	queue := make(chan *entry, len(order))
	for _, e := range order {
		queue <- e
	}
	close(queue)
	for range provers {
		r.work.Go(func() {
			for e := range queue {
				r.settle(ctx, e)
			}
		})
	}
	return r
}

// rank puts what takes long last.
func rank(d *Definition) int {
	switch {
	case d.Cache != nil:
		return 2
	case d.slow():
		return 1
	}
	return 0
}

// Close stops proving and waits for it.
func (r *Registry) Close() {
	r.stop()
	r.work.Wait()
}

// Settled waits until every quick language is known.
func (r *Registry) Settled(ctx context.Context) error { return r.settled(ctx, false) }

// AllSettled waits until every language is known.
func (r *Registry) AllSettled(ctx context.Context) error { return r.settled(ctx, true) }

func (r *Registry) settled(ctx context.Context, slow bool) error {
	for _, e := range r.entries {
		if !slow && e.def.slow() {
			continue
		}
		select {
		case <-e.known:
		case <-ctx.Done():
			return fmt.Errorf("languages: %w", context.Cause(ctx))
		}
	}
	return nil
}

// Find returns a language by id or alias, and waits while it is being
// proven. An unknown or unavailable one is a KindInvalid error.
func (r *Registry) Find(ctx context.Context, name string) (*Toolchain, error) {
	e, ok := r.names[name]
	if !ok {
		return nil, invalidLanguage("is not one that this executor knows; GET /v1/languages lists them")
	}
	select {
	case <-e.known:
	default:
		select {
		case <-e.known:
		case <-ctx.Done():
			return nil, eval.Errorf(eval.KindUnavailable, "language %s is still being checked: %w", e.def.ID, context.Cause(ctx))
		}
	}
	if e.toolchain == nil {
		return nil, invalidLanguage("is not available on this executor: " + e.problem)
	}
	return e.toolchain, nil
}

func invalidLanguage(message string) error {
	return eval.Invalid([]eval.FieldError{{Field: "language", Message: message}})
}

// List describes every language, ordered by id.
func (r *Registry) List() []eval.Language {
	list := make([]eval.Language, len(r.entries))
	for i, e := range r.entries {
		d := e.def
		list[i] = eval.Language{
			ID: d.ID, Name: d.Name, Aliases: d.Aliases, Extensions: d.Extensions,
			SourceFile: d.Source, Compiled: d.Compile != nil, Example: d.Example,
		}
		select {
		case <-e.known:
			if list[i].Problem = e.problem; e.toolchain != nil {
				list[i].Available, list[i].Version = true, e.toolchain.Version
			}
		default:
			list[i].Checking, list[i].Problem = true, checkingProblem
		}
	}
	return list
}

// settle finds out about one language.
func (r *Registry) settle(ctx context.Context, e *entry) {
	defer close(e.known)
	began := time.Now()
	t, err := r.ready(ctx, e.def)
	if err != nil {
		e.problem = err.Error()
		if ctx.Err() == nil {
			r.opt.Logger.Info("language not available", "language", e.def.ID, "problem", e.problem)
		}
		return
	}
	e.toolchain = t
	r.opt.Logger.Info("language ready", "language", t.ID, "version", t.Version, "took_ms", time.Since(began).Milliseconds())
}

func (r *Registry) ready(ctx context.Context, d *Definition) (*Toolchain, error) {
	folders := filepath.SplitList(os.Getenv("PATH"))
	tools := map[string]found{}
	for _, tool := range d.Toolchain {
		f, err := tool.find(ctx, folders)
		if err != nil {
			return nil, err
		}
		tools[tool.Name] = f
	}
	t := assemble(d, tools)
	if err := t.prepareCache(ctx, r.opt.CacheDir); err != nil {
		return nil, err
	}
	if version, ok := r.proofs.recall(t); ok {
		t.Version = version
		return t, nil
	}
	ctx, cancel := context.WithTimeoutCause(ctx, proveTimeout, errors.New("its smoke test took too long"))
	defer cancel()
	var err error
	for range proveTries {
		if t.Version, err = r.opt.Prove(ctx, t); !errors.Is(err, sandbox.ErrPlatform) {
			break
		}
	}
	if err != nil {
		return nil, err
	}
	r.proofs.remember(t)
	return t, nil
}
