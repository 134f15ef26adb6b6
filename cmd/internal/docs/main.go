// Command docs writes the page of docs that follows from the command line.
package main

import (
	"bytes"
	"fmt"
	"os"

	"github.com/crucible-eval/crucible/cmd/internal/cli"
)

func main() {
	var page bytes.Buffer
	err := cli.Documentation(&page)
	if err == nil {
		err = os.WriteFile(os.Args[1], page.Bytes(), 0o644)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "docs:", err)
		os.Exit(1)
	}
}
