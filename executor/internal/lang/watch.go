package lang

import (
	"context"
	"slices"
	"time"
)

// DefaultPoll is how often the folder of languages and the programs that
// languages need are looked at. A look is a call of stat for each command in
// each folder of PATH: some two thousand, 5 ms of CPU time.
const DefaultPoll = 5 * time.Second

// recheckEvery is how soon a language can be suspected again.
const recheckEvery = 30 * time.Second

// Reload has the folder read and every tool looked for now: also those that
// hide behind a version manager, and those that did not work. It does not wait.
func (r *Registry) Reload() {
	r.mu.Lock()
	r.reload = true
	r.mu.Unlock()
	r.nudge()
}

// Recheck has a toolchain proven anew, because a run could not start it. Until
// then it is offered as it is. What was checked a moment ago is not checked
// again.
func (r *Registry) Recheck(t *Toolchain) {
	r.mu.Lock()
	e := r.entries[t.ID]
	suspect := e != nil && slices.Contains(e.offered, t) && time.Since(e.at) > r.opt.RecheckEvery
	if suspect {
		r.suspects[t.ID], e.at = true, time.Now()
	}
	r.mu.Unlock()
	if suspect {
		r.nudge()
	}
}

func (r *Registry) nudge() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// orders takes what Reload and Recheck asked for.
func (r *Registry) orders() func(id string) thorough {
	r.mu.Lock()
	defer r.mu.Unlock()
	least, suspects := ifChanged, r.suspects
	if r.reload {
		least = ifMissing
	}
	r.reload, r.suspects = false, map[string]bool{}
	return func(id string) thorough {
		if suspects[id] {
			return anew
		}
		return least
	}
}

// watch proves the languages, and then follows what changes. It ends with
// ctx. seen is how the folder looked before the languages were read from it.
func (r *Registry) watch(ctx context.Context, all []*Definition, seen string) {
	seen += glanceTools(all)
	first := ifChanged
	if r.opt.Anew {
		first = anew
	}
	r.settle(ctx, all, func(string) thorough { return first })
	var tick <-chan time.Time
	if r.opt.Poll > 0 {
		ticker := time.NewTicker(r.opt.Poll)
		defer ticker.Stop()
		tick = ticker.C
	}
	for last := seen; ; {
		how := func(string) thorough { return ifChanged }
		select {
		case <-ctx.Done():
			return
		case <-r.wake:
			how = r.orders()
		case <-tick:
			now := glanceFolder(r.opt.Dir) + glanceTools(all)
			rests := now == last
			last = now
			// What is being written or installed is left alone until it rests.
			if now == seen || !rests {
				continue
			}
		}
		folder := glanceFolder(r.opt.Dir)
		if next, err := Load(r.opt.Dir, r.opt.Only); r.loaded(err) {
			all = next
			r.list(all)
		}
		seen = folder + glanceTools(all)
		r.settle(ctx, all, how)
	}
}

// loaded keeps why the files could not be read, and tells whether they could.
// Languages stay as they were until they can.
func (r *Registry) loaded(err error) bool {
	problem := ""
	if err != nil {
		problem = err.Error()
	}
	r.mu.Lock()
	before := r.problem
	r.problem = problem
	r.mu.Unlock()
	switch {
	case problem != "" && problem != before:
		r.opt.Logger.Error("language files not taken over; the languages stay as they are", "problem", problem)
	case problem == "" && before != "":
		r.opt.Logger.Info("language files are good again")
	}
	return err == nil
}

// list has new languages known as being checked, and forgets those that are
// gone. Those that changed stay as they are until they are proven.
func (r *Registry) list(all []*Definition) {
	names, entries := map[string]string{}, map[string]*entry{}
	r.mu.Lock()
	for _, d := range all {
		for _, name := range append([]string{d.ID}, d.Aliases...) {
			names[name] = d.ID
		}
		e := r.entries[d.ID]
		if e == nil {
			e = &entry{def: d, known: make(chan struct{})}
		}
		entries[d.ID] = e
	}
	old := r.entries
	r.entries, r.names = entries, names
	r.mu.Unlock()
	for id, e := range old {
		if entries[id] == nil {
			r.opt.Logger.Info("language removed", "language", id)
			r.retire(e)
		}
	}
}
