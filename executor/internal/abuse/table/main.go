// Command table writes the list of cases into a page, between two marks.
package main

import (
	"bytes"
	"fmt"
	"os"

	"github.com/crucible-eval/crucible/executor/internal/abuse"
)

const (
	begin = "<!-- cases: written by make generate -->\n"
	end   = "<!-- end of cases -->\n"
)

func main() {
	if err := write(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "table:", err)
		os.Exit(1)
	}
}

func write(name string) error {
	page, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	before, rest, ok := bytes.Cut(page, []byte(begin))
	_, after, closed := bytes.Cut(rest, []byte(end))
	if !ok || !closed {
		return fmt.Errorf("%s has no place between %q and %q", name, begin, end)
	}
	return os.WriteFile(name, fmt.Appendf(nil, "%s%s%s%s%s", before, begin, abuse.Markdown(), end, after), 0o644)
}
