package cli

import (
	"errors"
	"fmt"
	"slices"

	"github.com/alecthomas/kong"

	"github.com/crucible-eval/crucible/pkg/config"
)

// ConfigCmd prints or checks the configuration.
type ConfigCmd struct {
	Print ConfigPrintCmd `cmd:"" help:"Print the settings of a command as they are, as a configuration file."`
	Check ConfigCheckCmd `cmd:"" help:"Say whether a configuration file, and the environment, can be read."`
}

// commandsWithSettings can be started with a configuration.
var commandsWithSettings = []string{"up", "api", "worker", "executor", "storage"}

// ConfigPrintCmd prints the effective configuration.
type ConfigPrintCmd struct {
	For         string   `default:"up" enum:"up,api,worker,executor,storage" help:"Of which command: ${enum}."`
	ShowSecrets bool     `help:"Print passwords and keys as they are."`
	Flags       []string `arg:"" optional:"" passthrough:"" help:"Flags of that command, after --."`
}

// Run implements a kong command.
func (c *ConfigPrintCmd) Run(s *session, ctx *kong.Context) error {
	parsed, err := reparse(s, ctx, c.For, c.Flags)
	if err != nil {
		return withCode{err, exitUsage}
	}
	if s.json {
		return writeJSON(s.stdout, config.Values(parsed.Selected(), c.ShowSecrets))
	}
	return config.Print(s.stdout, parsed.Selected(), c.ShowSecrets)
}

// ConfigCheckCmd checks the configuration.
type ConfigCheckCmd struct {
	File string `arg:"" optional:"" type:"path" help:"Which file. Default: the one that would be used."`
}

// Run implements a kong command.
func (c *ConfigCheckCmd) Run(s *session, ctx *kong.Context) error {
	var errs []error
	for _, command := range commandsWithSettings {
		if _, err := reparse(s, ctx, command, nil, c.File); err != nil && !slices.ContainsFunc(errs, func(e error) bool { return e.Error() == err.Error() }) {
			errs = append(errs, err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return withCode{err, exitUsage}
	}
	if s.json {
		return writeJSON(s.stdout, map[string]any{"valid": true})
	}
	fmt.Fprintln(s.stdout, "the configuration can be read")
	return nil
}

// reparse reads the configuration again, for another command. The global
// flags of the call count, and file, when there is one, in their place.
func reparse(s *session, ctx *kong.Context, command string, flags []string, file ...string) (*kong.Context, error) {
	var g Grammar
	parser, err := New(&g, Streams{s.stdin, s.stdout, s.stderr}, kong.Exit(func(int) {}))
	if err != nil {
		return nil, err
	}
	args := []string{command}
	if len(file) == 1 && file[0] != "" {
		args = append(args, "--config", file[0])
	} else if path := configPath(ctx); path != "" {
		args = append(args, "--config", path)
	}
	if len(flags) > 0 && flags[0] == "--" {
		flags = flags[1:]
	}
	parsed, err := parser.Parse(append(args, flags...))
	if err != nil {
		return nil, err
	}
	return parsed, nil
}
