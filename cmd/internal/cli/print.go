package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"regexp"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/pkg/observe"
)

// writeJSON writes v, indented, with a line end.
func writeJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

// table writes rows in columns. Cells may be coloured.
func table(w io.Writer, head string, rows [][]string) error {
	if head != "" {
		rows = append([][]string{strings.Split(head, "\t")}, rows...)
	}
	var widths []int
	for _, row := range rows {
		for i, cell := range row {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], visible(cell))
		}
	}
	var out strings.Builder
	for _, row := range rows {
		var line strings.Builder
		for i, cell := range row {
			line.WriteString(cell)
			if i < len(row)-1 {
				line.WriteString(strings.Repeat(" ", widths[i]-visible(cell)+2))
			}
		}
		out.WriteString(strings.TrimRight(line.String(), " ") + "\n")
	}
	_, err := io.WriteString(w, out.String())
	return err
}

var colours = regexp.MustCompile("\x1b\\[[0-9]*m")

// visible is how many characters of a cell are seen.
func visible(cell string) int { return utf8.RuneCountInString(colours.ReplaceAllString(cell, "")) }

// paint colours text, on a terminal only.
type paint bool

func paintFor(w io.Writer) paint { return paint(observe.Colours(w)) }

func (p paint) wrap(code, text string) string {
	if !p || text == "" {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

func (p paint) bold(text string) string  { return p.wrap("1", text) }
func (p paint) faint(text string) string { return p.wrap("2", text) }
func (p paint) good(text string) string  { return p.wrap("32", text) }
func (p paint) bad(text string) string   { return p.wrap("31", text) }
func (p paint) warn(text string) string  { return p.wrap("33", text) }

// outcome is a status or verdict in the colour that it deserves.
func (p paint) outcome(status eval.Status, verdict eval.Verdict) string {
	switch {
	case status == eval.Completed && verdict == eval.Accepted:
		return p.good(string(verdict))
	case status == eval.Completed && verdict != "":
		return p.bad(string(verdict))
	case status == eval.Failed:
		return p.bad(string(status))
	case status == eval.Cancelled:
		return p.warn(string(status))
	default:
		return string(status)
	}
}

func ms(v float64) string {
	switch {
	case v >= 10_000:
		return fmt.Sprintf("%.1f s", v/1000)
	case v >= 100:
		return fmt.Sprintf("%.0f ms", v)
	default:
		return fmt.Sprintf("%.1f ms", v)
	}
}

func bytesText(n int64) string {
	switch {
	case n >= 1<<30:
		return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
	case n >= 1<<20:
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	case n >= 1<<10:
		return fmt.Sprintf("%.1f KiB", float64(n)/(1<<10))
	default:
		return fmt.Sprintf("%d B", n)
	}
}

func ago(t time.Time) string {
	switch d := time.Since(t); {
	case d < time.Second:
		return "now"
	case d < 48*time.Hour:
		return span(d) + " ago"
	default:
		return t.Local().Format("2006-01-02 15:04")
	}
}

// span is a duration in its largest unit, up to hours.
func span(d time.Duration) string {
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	default:
		return fmt.Sprintf("%dh", int(d.Hours()))
	}
}

func plural(n int, word string) string {
	if n == 1 {
		return "1 " + word
	}
	if stem, ok := strings.CutSuffix(word, "y"); ok {
		word = stem + "ie"
	}
	return fmt.Sprintf("%d %ss", n, word)
}
