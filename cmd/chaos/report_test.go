//go:build chaos && linux

package chaos_test

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"
)

// report is what a run has found.
type report struct {
	Command  string            `json:"command"`
	Date     string            `json:"date"`
	TookS    float64           `json:"took_s"`
	Seed     uint64            `json:"seed"`
	Timings  timings           `json:"timings_ns"`
	Versions map[string]string `json:"versions"`

	Accepted    int     `json:"accepted"`
	Ended       int     `json:"ended"`
	Lost        int     `json:"lost"`         // accepted, and not ended
	Double      int     `json:"double"`       // ended twice, or accepted twice
	Again       int     `json:"again"`        // needed more than one attempt
	Poison      int     `json:"poison"`       // meant to become dead letters
	DeadLetters int     `json:"dead_letters"` // that there are
	Leftovers   int     `json:"leftovers"`    // processes, control groups, mounts
	Refusals    int     `json:"refusals"`     // calls that clients had to repeat
	ShutS       float64 `json:"longest_submission_s"`
	Programs    string  `json:"programs"`

	Faults  []*row `json:"faults"`
	Strikes int    `json:"fault_count"`

	mu       sync.Mutex
	Problems []string `json:"problems"`
}

// row is a kind of fault. Samples are the times until the evaluations that were in flight went on.
type row struct {
	Name    string          `json:"name"`
	What    string          `json:"what"`
	Healed  bool            `json:"from_its_end"`
	Count   int             `json:"count"`
	Samples []time.Duration `json:"-"`
	P50     float64         `json:"p50_s"`
	P99     float64         `json:"p99_s"`
	Max     float64         `json:"max_s"`
	Flight  int             `json:"in_flight"`
}

func newReport(c *cluster, kinds []fault) *report {
	r := &report{
		Command: "make chaos", Date: time.Now().UTC().Format(time.DateOnly), Seed: options.seed, Timings: c.timings,
		Versions: map[string]string{}, Problems: []string{},
	}
	if words := given(); len(words) > 0 {
		r.Command += fmt.Sprintf(" ARGS=%q", strings.Join(words, " "))
	}
	for _, f := range kinds {
		r.Faults = append(r.Faults, &row{Name: f.name, What: f.what, Healed: f.healed})
	}
	r.Faults = append(r.Faults, &row{Name: mixed, What: "two of the above at the same time"})
	r.Versions["go"] = runtime.Version()
	r.Versions["cpus"] = fmt.Sprint(runtime.NumCPU())
	var uname unix.Utsname
	if unix.Uname(&uname) == nil {
		r.Versions["linux"] = unix.ByteSliceToString(uname.Release[:])
	}
	if out, err := exec.Command("git", "rev-parse", "--short", "HEAD").Output(); err == nil {
		r.Versions["crucible"] = strings.TrimSpace(string(out))
	}
	if info, err := c.queue.Client().Info(context.Background(), "server").Result(); err == nil {
		_, rest, _ := strings.Cut(info, "redis_version:")
		version, _, _ := strings.Cut(rest, "\r\n")
		r.Versions["redis"] = version
	}
	if found, _ := filepath.Glob(filepath.Join(c.disks["database"], "*", "data", "PG_VERSION")); len(found) == 1 {
		text, _ := os.ReadFile(found[0])
		r.Versions["postgres"] = strings.TrimSpace(string(text))
	}
	return r
}

// given are the flags that decide what the run does, as they were given.
func given() []string {
	var words []string
	flag.Visit(func(f *flag.Flag) {
		switch f.Name {
		case "evaluations", "faults", "seed", "rate", "fast", "only":
			words = append(words, "-"+f.Name+"="+f.Value.String())
		}
	})
	return words
}

func (r *report) problem(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.Problems = append(r.Problems, fmt.Sprintf(format, args...))
}

func (r *report) add(s strike, samples []time.Duration) {
	name := mixed
	if len(s.faults) == 1 {
		name = s.faults[0].name
	}
	i := slices.IndexFunc(r.Faults, func(row *row) bool { return row.Name == name })
	r.Faults[i].Count++
	r.Faults[i].Samples = append(r.Faults[i].Samples, samples...)
	if name != control {
		r.Strikes += len(s.faults)
	}
}

// finish computes what the report shows.
func (r *report) finish(c *cluster) {
	r.TookS = time.Since(c.began).Seconds()
	c.load.mu.Lock()
	r.Refusals, r.ShutS = c.load.refusals, c.load.shut.Seconds()
	r.Problems = append(r.Problems, c.load.problems...)
	c.load.mu.Unlock()
	r.Programs = c.load.kindsOf()
	r.Faults = slices.DeleteFunc(r.Faults, func(row *row) bool { return row.Count == 0 })
	for _, row := range r.Faults {
		slices.Sort(row.Samples)
		if n := len(row.Samples); n > 0 {
			at := func(q float64) float64 { return row.Samples[min(int(q*float64(n)), n-1)].Seconds() }
			row.Flight, row.P50, row.P99, row.Max = n, at(.5), at(.99), at(1)
		}
	}
}

func (r *report) print(w io.Writer) error {
	if options.output == "json" {
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		return enc.Encode(r)
	}
	fmt.Fprintf(w, "\n%s\n\n", strings.Join(r.counts(), "\n"))
	tw := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
	fmt.Fprintln(tw, "FAULT\tTIMES\tIN FLIGHT\tP50\tP99\tMAX\tFROM ITS")
	for _, row := range r.Faults {
		fmt.Fprintf(tw, "%s\t%d\t%d\t%.2f s\t%.2f s\t%.2f s\t%s\n", row.Name, row.Count, row.Flight, row.P50, row.P99, row.Max, row.from())
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	if len(r.Problems) > 0 {
		fmt.Fprintf(w, "\n%d problems:\n", len(r.Problems))
	}
	for i, p := range r.Problems {
		if i == 50 {
			fmt.Fprintf(w, "... and %d more\n", len(r.Problems)-i)
			break
		}
		fmt.Fprintln(w, " -", p)
	}
	return nil
}

func (row *row) from() string {
	if row.Healed {
		return "end"
	}
	return "begin"
}

func (r *report) counts() []string {
	return []string{
		fmt.Sprintf("accepted %d, ended %d, lost %d, double %d", r.Accepted, r.Ended, r.Lost, r.Double),
		fmt.Sprintf("faults %d in %.0f s; %d evaluations needed more than one attempt", r.Strikes, r.TookS, r.Again),
		fmt.Sprintf("dead letters %d, of which %d were meant to be; left behind %d; problems %d", r.DeadLetters, r.Poison, r.Leftovers, len(r.Problems)),
		fmt.Sprintf("clients repeated %d calls; the longest submission took %.1f s", r.Refusals, r.ShutS),
	}
}

// The page keeps its prose; what stands between the marks is written by a run.
const markBegin, markEnd = "<!-- chaos:begin (make chaos writes what follows) -->", "<!-- chaos:end -->"

// writeMarkdown puts the report into a page.
func (r *report) writeMarkdown(file string) error {
	page, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	before, rest, ok := strings.Cut(string(page), markBegin)
	_, after, ok2 := strings.Cut(rest, markEnd)
	if !ok || !ok2 {
		return fmt.Errorf("%s has not the marks %q and %q", file, markBegin, markEnd)
	}
	return os.WriteFile(file, []byte(before+markBegin+"\n\n"+r.markdown()+"\n"+markEnd+after), 0o644)
}

func (r *report) markdown() string {
	var b strings.Builder
	var versions []string
	for _, name := range slices.Sorted(maps.Keys(r.Versions)) {
		versions = append(versions, name+" "+r.Versions[name])
	}
	fmt.Fprintf(&b, "    %s\n\n", r.Command)
	fmt.Fprintf(&b, "%s; %s. Seed %d, lease %v, reconciled every %v.\n\n", r.Date, strings.Join(versions, ", "), r.Seed, r.Timings.Lease, r.Timings.Reconcile)
	fmt.Fprintf(&b, "| accepted | ended | **lost** | **double** | faults | more than one attempt | dead letters (meant to be) | left behind | took |\n|---|---|---|---|---|---|---|---|---|\n")
	fmt.Fprintf(&b, "| %d | %d | **%d** | **%d** | %d | %d | %d (%d) | %d | %.0f s |\n\n", r.Accepted, r.Ended, r.Lost, r.Double, r.Strikes, r.Again, r.DeadLetters, r.Poison, r.Leftovers, r.TookS)
	fmt.Fprintf(&b, "Clients repeated %d calls; the longest submission, repeats included, took %.1f s. Programs: %s.\n\n", r.Refusals, r.ShutS, r.Programs)
	fmt.Fprintf(&b, "| fault | what | times | in flight | p50 | p99 | max | from its |\n|---|---|---|---|---|---|---|---|\n")
	for _, row := range r.Faults {
		fmt.Fprintf(&b, "| %s | %s | %d | %d | %.2f s | %.2f s | %.2f s | %s |\n", row.Name, row.What, row.Count, row.Flight, row.P50, row.P99, row.Max, row.from())
	}
	return b.String()
}
