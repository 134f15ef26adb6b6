package lang

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/crucible-eval/crucible/pkg/eval"
)

// Prove runs a language's version command and smoke test in the sandbox. The
// error says what a person has to know.
type Prove func(ctx context.Context, t *Toolchain) (Proof, error)

// Proof is what was seen when a toolchain passed its smoke test. The times
// are zero when the proof is an earlier one.
type Proof struct {
	Version   string  `json:"version"`
	CompileMS float64 `json:"-"`
	RunMS     float64 `json:"-"`
}

// Options are what Start needs.
type Options struct {
	Dir      string   // of the operator's language files; empty: none
	Only     []string // the ids to offer; empty: all
	CacheDir string   // for caches; must exist or be makeable
	InPlace  bool     // boxes have caches where the host has them, not at a place of their own
	Remember bool     // keep proofs in CacheDir between starts
	Sandbox  string   // names the sandbox; a proof holds only for the same
	Anew     bool     // let no earlier proof stand at the start
	Prove    Prove
	// Retire, when not nil, is told of toolchains that are offered no more.
	// Runs may still be using them.
	Retire func(*Toolchain)
	// Report, when not nil, is told what was found out about each toolchain, and
	// about each language without one. It may be called concurrently.
	Report func(Report)
	// Poll is how often languages are looked after; 0: DefaultPoll; negative: never.
	Poll time.Duration
	// RecheckEvery is how soon a language can be suspected again; 0: half a
	// minute.
	RecheckEvery time.Duration
	Logger       *slog.Logger
}

// Report says how a toolchain did.
type Report struct {
	ID    string
	Path  string // of its first tool; empty: none was found
	Proof Proof
	Err   error // why it is not offered
}

// Registry holds the languages. It proves them in the background, and follows
// what changes on the machine while it is open.
type Registry struct {
	opt    Options
	proofs proofs
	closed <-chan struct{}
	stop   context.CancelFunc
	work   sync.WaitGroup
	wake   chan struct{} // has one when there is something to look at now

	mu       sync.Mutex
	entries  map[string]*entry
	names    map[string]string // id or alias -> id
	problem  string            // why the files could not be read again
	reload   bool              // it was asked for
	suspects map[string]bool   // ids of languages to prove anew
}

// entry is what is known of one language. But for at it does not change once
// known is closed; a new one takes its place.
type entry struct {
	def   *Definition
	known chan struct{}

	found   []string     // stamps of the toolchains that were looked at
	offered []*Toolchain // those that work, the default first
	problem string       // why there is none
	at      time.Time    // when this was found out, or suspected last; mu guards it
}

// Start reads the languages and begins to prove them, quick ones first. It
// does not wait for that.
func Start(opt Options) (*Registry, error) {
	opt.Poll = cmp.Or(opt.Poll, DefaultPoll)
	opt.RecheckEvery = cmp.Or(opt.RecheckEvery, recheckEvery)
	folder := glanceFolder(opt.Dir)
	all, err := Load(opt.Dir, opt.Only)
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(context.Background())
	r := &Registry{
		opt: opt, closed: ctx.Done(), stop: stop, wake: make(chan struct{}, 1),
		entries: map[string]*entry{}, suspects: map[string]bool{},
	}
	if opt.Remember {
		r.proofs = proofs{opt.CacheDir, opt.Sandbox}
	}
	r.list(all)
	r.work.Go(func() { r.watch(ctx, all, folder) })
	return r, nil
}

// errClosed is what those hear who wait when the registry closes.
var errClosed = eval.Errorf(eval.KindStopping, "the executor shut down before its languages were checked")

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
	for _, e := range r.sorted() {
		if !slow && e.def.slow() {
			continue
		}
		select {
		case <-e.known:
		case <-r.closed:
			return errClosed
		case <-ctx.Done():
			return fmt.Errorf("languages: %w", context.Cause(ctx))
		}
	}
	return nil
}

// sorted returns the entries ordered by id.
func (r *Registry) sorted() []*entry {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.SortedFunc(maps.Values(r.entries), func(a, b *entry) int { return strings.Compare(a.def.ID, b.def.ID) })
}

// Find returns a toolchain of the language with this id or alias: the default
// one, or the first whose version matches (see eval.MatchVersion). It waits
// while the language is being proven. KindInvalid: the language or version is
// unknown or not available.
func (r *Registry) Find(ctx context.Context, name, version string) (*Toolchain, error) {
	for {
		r.mu.Lock()
		e := r.entries[r.names[name]]
		r.mu.Unlock()
		if e == nil {
			return nil, invalid("language", "is not one that this executor knows; GET /v1/languages lists them")
		}
		select {
		case <-e.known:
		default:
			select {
			case <-e.known:
				continue // what was found out is in its place
			case <-r.closed:
				return nil, errClosed
			case <-ctx.Done():
				return nil, eval.Errorf(eval.KindUnavailable, "language %s is still being checked: %w", e.def.ID, context.Cause(ctx))
			}
		}
		if len(e.offered) == 0 {
			return nil, invalid("language", "is not available on this executor: "+e.problem)
		}
		if version == "" {
			return e.offered[0], nil
		}
		i, ok := eval.MatchVersion(e.versions(), version)
		if !ok {
			return nil, invalid("version", fmt.Sprintf("%q of %s is not on this executor, which has %s", version, e.def.ID, strings.Join(e.versions(), ", ")))
		}
		return e.offered[i], nil
	}
}

func invalid(field, message string) error {
	return eval.Invalid([]eval.FieldError{{Field: field, Message: message}})
}

func (e *entry) versions() []string {
	var list []string
	for _, t := range e.offered {
		list = append(list, t.Version)
	}
	return list
}

// List describes every language, ordered by id. problem says why the files
// of the folder could not be taken over when they changed last, or nothing.
func (r *Registry) List() (list []eval.Language, problem string) {
	for _, e := range r.sorted() {
		d := e.def
		l := eval.Language{
			ID: d.ID, Name: d.Name, Aliases: d.Aliases, Extensions: d.Extensions,
			SourceFile: d.Source, Compiled: d.Compile != nil, Example: d.Example,
		}
		select {
		case <-e.known:
			if l.Problem = e.problem; len(e.offered) > 0 {
				l.Available, l.Version, l.Versions = true, e.offered[0].Version, e.versions()
			}
		default:
			l.Checking, l.Problem = true, checkingProblem
		}
		list = append(list, l)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return list, r.problem
}

// checkingProblem is what a language says of itself until it is proven.
const checkingProblem = "being checked"
