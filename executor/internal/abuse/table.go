package abuse

import (
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/crucible-eval/crucible/pkg/eval"
)

// Table is what came of each case, by its name, at each level.
type Table map[string]map[string]string

// Note writes down what was seen of a case at a level: ok, FAILED, or a dash.
func (t Table) Note(c Case, level, saw string) {
	if t[c.Name] == nil {
		t[c.Name] = map[string]string{}
	}
	t[c.Name][level] = saw
}

// String lays the table out for people: cases by levels, those levels at
// which something was run.
func (t Table) String() string {
	var levels []string
	for _, level := range eval.IsolationLevels() {
		for _, saw := range t {
			if s := saw[level]; s == "ok" || s == "FAILED" {
				levels = append(levels, level)
				break
			}
		}
	}
	wide := 0
	for _, c := range Cases() {
		wide = max(wide, utf8.RuneCountInString(c.Name))
	}
	var b strings.Builder
	var class Class
	sum := map[string]int{}
	for _, c := range Cases() {
		if c.Class != class {
			class = c.Class
			fmt.Fprintf(&b, "\n%-*s  %s\n", wide, class, strings.Join(levels, "  "))
		}
		fmt.Fprintf(&b, "  %s%s", c.Name, strings.Repeat(" ", wide-utf8.RuneCountInString(c.Name)))
		for _, level := range levels {
			saw := t[c.Name][level]
			if saw == "" {
				saw = "—"
			}
			sum[saw]++
			fmt.Fprintf(&b, "%s%s  ", saw, strings.Repeat(" ", max(len(level)-utf8.RuneCountInString(saw), 0)))
		}
		b.WriteString("\n")
	}
	fmt.Fprintf(&b, "\n%d ok, %d FAILED, %d without a promise at that level or without their language\n", sum["ok"], sum["FAILED"], sum["—"])
	return b.String()
}
