package abuse

import (
	"fmt"
	"strings"

	"github.com/crucible-eval/crucible/pkg/eval"
)

// Markdown writes the cases for docs/isolation.md: for each class a table of
// what must come out, and of the levels that promise it.
func Markdown() string {
	levels := eval.IsolationLevels()
	var b strings.Builder
	for _, class := range Classes() {
		fmt.Fprintf(&b, "\n### %s\n\n| case | the program | what must come out | %s |\n|---|---|---|%s\n", class, strings.Join(levels, " | "), strings.Repeat("---|", len(levels)))
		var reasons []string
		for _, c := range Cases() {
			if c.Class != class {
				continue
			}
			fmt.Fprintf(&b, "| %s | %s | %s |", cell(c.Name), cell(c.Does), cell(c.Want.String()))
			for _, level := range levels {
				p := c.Promised(level)
				switch own, differs := c.At[level]; {
				case p.Not != "":
					note := noteOf(&reasons, p.Not)
					fmt.Fprintf(&b, " no (%s) |", note)
				case differs:
					fmt.Fprintf(&b, " %s |", cell(own.String()))
				default:
					b.WriteString(" yes |")
				}
			}
			b.WriteString("\n")
		}
		if len(reasons) > 0 {
			b.WriteString("\n")
		}
		for i, why := range reasons {
			fmt.Fprintf(&b, "(%c) %s.\n", 'a'+i, sentence(why))
		}
	}
	b.WriteString("\n")
	return b.String()
}

// noteOf returns the letter of a reason, which is added when it is new.
func noteOf(reasons *[]string, why string) string {
	for i, r := range *reasons {
		if r == why {
			return string(rune('a' + i))
		}
	}
	*reasons = append(*reasons, why)
	return string(rune('a' + len(*reasons) - 1))
}

func sentence(s string) string { return strings.ToUpper(s[:1]) + s[1:] }

// cell keeps a text from ending its cell.
func cell(s string) string {
	return strings.NewReplacer("|", "\\|", "<", "&lt;", "*", "\\*", "_", "\\_", "#", "\\#").Replace(s)
}
