package demo

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Report is what became of all demonstrations.
type Report struct {
	StartedAt time.Time `json:"started_at"`
	Seconds   float64   `json:"seconds"`
	Version   string    `json:"version"`
	Isolation string    `json:"isolation,omitempty"`
	Held      int       `json:"held"`
	Failed    int       `json:"failed"`
	Skipped   int       `json:"skipped"`
	Outcomes  []Outcome `json:"outcomes"`
}

// Add counts an outcome.
func (r *Report) Add(o Outcome) {
	switch {
	case o.Skipped != "":
		r.Skipped++
	case o.Holds():
		r.Held++
	default:
		r.Failed++
	}
	r.Outcomes = append(r.Outcomes, o)
}

// Write writes report.md and report.json into a folder, and makes it if need be.
func (r Report) Write(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("report: %w", err)
	}
	raw, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("report: %w", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "report.json"), append(raw, '\n'), 0o644); err != nil {
		return fmt.Errorf("report: %w", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "report.md"), []byte(r.markdown()), 0o644); err != nil {
		return fmt.Errorf("report: %w", err)
	}
	return nil
}

func (r Report) markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "# Demonstrations\n\n%s, crucible %s, isolation %s: %d held, %d failed, %d left out, in %.1f s.\n\n",
		r.StartedAt.UTC().Format("2006-01-02 15:04 UTC"), r.Version, r.Isolation, r.Held, r.Failed, r.Skipped, r.Seconds)
	b.WriteString("| demonstration | programs | outcome | program's time | in all | |\n|---|---|---|---|---|---|\n")
	for _, o := range r.Outcomes {
		fmt.Fprintf(&b, "| %s | %d | %s | %.0f ms | %.2f s | %s |\n", o.Name(), o.Times, Told(o), o.WallMS, o.Seconds, o.Mark())
	}
	for _, o := range r.Outcomes {
		if !o.Holds() {
			fmt.Fprintf(&b, "\n## %s does not hold\n\n", o.Name())
			for _, w := range o.Wrong {
				fmt.Fprintf(&b, "- %s\n", strings.ReplaceAll(w, "\n", " "))
			}
		}
	}
	return b.String()
}

// Told is the outcome in words.
func Told(o Outcome) string {
	switch {
	case o.Skipped != "":
		return o.Skipped
	case o.Cause != "":
		return fmt.Sprintf("%s (%s)", o.Verdict, o.Cause)
	default:
		return string(o.Verdict)
	}
}

// Mark is ok, FAILED or left out.
func (o Outcome) Mark() string {
	switch {
	case o.Skipped != "":
		return "left out"
	case o.Holds():
		return "ok"
	default:
		return "FAILED"
	}
}
