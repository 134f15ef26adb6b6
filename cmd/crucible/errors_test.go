package main

import (
	"io"
	"regexp"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/api"
	"github.com/crucible-eval/crucible/cmd/internal/cli"
	"github.com/crucible-eval/crucible/pkg/eval"
)

// TestAdviceCanBeFollowed: the commands, flags and paths that the table of
// kinds tells people to use are there.
func TestAdviceCanBeFollowed(t *testing.T) {
	var g cli.Grammar
	parser, err := cli.New(&g, cli.Streams{Out: io.Discard, Err: io.Discard})
	require.NoError(t, err)
	commands, flags := map[string]bool{}, map[string]bool{}
	require.NoError(t, kong.Visit(parser.Model, func(node kong.Visitable, next kong.Next) error {
		switch n := node.(type) {
		case *kong.Command:
			commands[n.Name] = true
		case *kong.Flag:
			flags[n.Name] = true
		}
		return next(nil)
	}))
	contract := string(api.OpenAPI())
	seen := 0
	for _, k := range eval.Kinds() {
		text := k.What + " " + k.Do
		for _, m := range regexp.MustCompile("`crucible ([a-z-]+)").FindAllStringSubmatch(text, -1) {
			require.True(t, commands[m[1]], "%s advises crucible %s", k.Kind, m[1])
			seen++
		}
		for _, m := range regexp.MustCompile("`--([a-z-]+)").FindAllStringSubmatch(text, -1) {
			require.True(t, flags[m[1]], "%s advises --%s", k.Kind, m[1])
			seen++
		}
		for _, m := range regexp.MustCompile("`(GET|POST) ([^` ]+)").FindAllStringSubmatch(text, -1) {
			require.True(t, strings.Contains(contract, "\n  "+m[2]+":\n"), "%s advises %s", k.Kind, m[2])
			seen++
		}
	}
	require.Greater(t, seen, 10)
}
