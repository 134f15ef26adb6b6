// Package catalog knows the executors: what each offers and does now, and
// which languages there are in all.
package catalog

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/pkg/problem"
	"github.com/crucible-eval/crucible/pkg/service"
)

const (
	// askTimeout bounds the question to one executor.
	askTimeout = 2 * time.Second
	// keep is how long an answer counts as now.
	keep = time.Second
	// refreshEvery is how old the knowledge of languages may become.
	refreshEvery = 5 * time.Second
)

// Executor is an executor and the name it is shown by: its URL, or "local".
type Executor struct {
	Name string
	eval.Executor
}

// State is an executor as it answered last.
type State struct {
	Name    string
	Status  *eval.ExecutorStatus // nil when it did not answer
	Problem string               // why not, for people
	SeenAt  *time.Time           // when it last answered; nil: never
}

// Names of what an executor is like.
const (
	Ready    = "ready"
	Draining = "draining"
	Troubled = "troubled" // answers, and takes on no runs: Problem says why
	Away     = "away"     // does not answer: Problem says why
)

// Word is what the executor is like, in one of the names above.
func (s State) Word() string {
	switch {
	case s.Status == nil:
		return Away
	case s.Status.Draining:
		return Draining
	case s.Status.Problem != "":
		return Troubled
	default:
		return Ready
	}
}

// Language is a language and the executors that offer it.
type Language struct {
	eval.Language
	Executors []string `json:"executors"`
}

// Catalog asks executors. Its knowledge of languages outlives an executor
// that is away.
type Catalog struct {
	executors []Executor

	asking sync.Mutex // one round of questions at a time

	mu     sync.Mutex
	at     time.Time // of the last round
	states []State
	known  map[string]eval.ExecutorStatus // the last answer of each, by name
	seen   map[string]time.Time           // when that was
}

// New returns a catalog that has asked nobody yet.
func New(executors []Executor) *Catalog {
	return &Catalog{executors: executors, known: map[string]eval.ExecutorStatus{}, seen: map[string]time.Time{}}
}

// Run asks now and then until ctx ends.
func (c *Catalog) Run(ctx context.Context) error {
	ticker := time.NewTicker(refreshEvery)
	defer ticker.Stop()
	for {
		service.Beat(ctx)
		c.States(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// States returns every executor as it is now, or was a second ago at most.
// One that does not answer within two seconds is there with its problem.
func (c *Catalog) States(ctx context.Context) []State {
	c.asking.Lock()
	defer c.asking.Unlock()
	c.mu.Lock()
	if c.states != nil && time.Since(c.at) < keep {
		defer c.mu.Unlock()
		return slices.Clone(c.states)
	}
	c.mu.Unlock()

	states := make([]State, len(c.executors))
	var wg sync.WaitGroup
	for i, e := range c.executors {
		wg.Go(func() { states[i] = ask(ctx, e) })
	}
	wg.Wait()

	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	for i, s := range states {
		if s.Status != nil {
			c.known[s.Name], c.seen[s.Name] = *s.Status, now.UTC()
		}
		if at, ok := c.seen[s.Name]; ok {
			states[i].SeenAt = &at
		}
	}
	if ctx.Err() == nil { // else it was the caller who gave up
		c.states, c.at = states, now
	}
	return slices.Clone(states)
}

// Last returns every executor as it was when it was last asked, without
// asking; none before the first time.
func (c *Catalog) Last() []State {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.states)
}

func ask(ctx context.Context, e Executor) State {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	status, err := e.Status(ctx)
	if err != nil {
		return State{Name: e.Name, Problem: problem.From(err).Detail}
	}
	return State{Name: e.Name, Status: &status}
}

// Languages merges what the executors offer, by id. A language, and a version
// of it, is available when it is so at one executor. ok is false while none
// was ever reached.
func (c *Catalog) Languages() (all []Language, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	byID := map[string]*Language{}
	for _, e := range c.executors { // in a stable order
		for _, l := range c.known[e.Name].Languages {
			have := byID[l.ID]
			if have == nil {
				have = &Language{Language: l, Executors: []string{}}
				byID[l.ID] = have
			} else if l.Available && !have.Available || l.Checking && !have.Offered() {
				have.Language = l
			}
			if l.Available {
				for _, v := range l.Versions {
					if !slices.Contains(have.Versions, v) {
						have.Versions = append(slices.Clip(have.Versions), v)
					}
				}
				have.Executors = append(have.Executors, e.Name)
			}
		}
	}
	for _, l := range byID {
		all = append(all, *l)
	}
	slices.SortFunc(all, func(a, b Language) int { return cmp.Compare(a.ID, b.ID) })
	return all, len(c.known) > 0
}

// LanguageProblem is why an executor did not take over changed files.
type LanguageProblem struct {
	Executor string `json:"executor"`
	Problem  string `json:"problem"`
}

// LanguageProblems returns those of the executors that have one.
func (c *Catalog) LanguageProblems() (all []LanguageProblem) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, e := range c.executors {
		if p := c.known[e.Name].LanguagesProblem; p != "" {
			all = append(all, LanguageProblem{e.Name, p})
		}
	}
	return all
}

// Known looks a language up by id or alias, without asking anybody. Before an
// executor was reached no name is known.
func (c *Catalog) Known(name string) (eval.Language, bool) {
	if _, ok := c.Languages(); !ok {
		return eval.Language{}, false
	}
	return c.find(name)
}

// Strongest is the strongest level of isolation among the executors; ok is
// false while none was ever reached.
func (c *Catalog) Strongest() (level string, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, status := range c.known {
		if !ok || eval.StrongEnough(status.Isolation.Level, level) {
			level, ok = status.Isolation.Level, true
		}
	}
	return level, ok
}

// Find looks a language up by id or alias. The first one asks the executors.
// While none was ever reached every name is taken for a language: the
// executor decides then. A name that is not known, or not available, is asked
// for once more.
func (c *Catalog) Find(ctx context.Context, name string) (eval.Language, bool) {
	c.mu.Lock()
	asked := c.states != nil
	c.mu.Unlock()
	if !asked {
		c.States(ctx)
	}
	l, ok := c.find(name)
	if !ok || !l.Offered() {
		c.States(ctx)
		l, ok = c.find(name)
	}
	return l, ok
}

func (c *Catalog) find(name string) (eval.Language, bool) {
	all, ok := c.Languages()
	if !ok {
		return eval.Language{ID: name, Available: true}, true
	}
	lower := strings.ToLower(name)
	for _, l := range all {
		if l.ID == lower || slices.Contains(l.Aliases, lower) {
			return l.Language, true
		}
	}
	return eval.Language{}, false
}
