// Package cli is the command line of crucible: one file for each command.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/alecthomas/kong"

	"github.com/crucible-eval/crucible/cmd/internal/client"
	"github.com/crucible-eval/crucible/pkg/config"
	"github.com/crucible-eval/crucible/pkg/eval"
)

// Exit codes of crucible itself; `submit` adds those of programs.
const (
	exitOK    = 0
	exitError = 1 // something did not work, or did not hold
	exitUsage = 2 // the command line or the configuration is wrong
)

// Grammar is the whole command line.
type Grammar struct {
	Config configFlag `name:"config" short:"c" placeholder:"FILE" env:"CRUCIBLE_CONFIG" nofile:"" type:"path" help:"Configuration file (YAML). Default: crucible/crucible.yaml in $$XDG_CONFIG_HOME, if it is there."`
	Output string     `short:"o" enum:"text,json" default:"text" help:"How to print: ${enum}."`

	Up       UpCmd       `cmd:"" default:"withargs" group:"serve" help:"Start everything in this process (the default)."`
	API      APICmd      `cmd:"" name:"api" group:"serve" help:"Start the API alone."`
	Worker   WorkerCmd   `cmd:"" group:"serve" help:"Start a worker alone."`
	Executor ExecutorCmd `cmd:"" group:"serve" help:"Start an executor alone."`
	Storage  StorageCmd  `cmd:"" group:"serve" help:"Start the storage alone."`
	Migrate  MigrateCmd  `cmd:"" group:"serve" help:"Bring the database up to date."`
	Conf     ConfigCmd   `cmd:"" name:"config" group:"serve" help:"Print or check the configuration."`
	Doctor   DoctorCmd   `cmd:"" group:"serve" help:"Check what this machine offers, and what it lacks."`

	Submit      SubmitCmd      `cmd:"" group:"use" help:"Run a program and show what it does."`
	Get         GetCmd         `cmd:"" group:"use" help:"Show an evaluation."`
	Timeline    TimelineCmd    `cmd:"" group:"use" help:"Tell what happened to an evaluation, and why."`
	List        ListCmd        `cmd:"" group:"use" help:"List evaluations, the newest first."`
	Watch       WatchCmd       `cmd:"" group:"use" help:"Show evaluations as they change."`
	Logs        LogsCmd        `cmd:"" group:"use" help:"Print what a program wrote."`
	Cancel      CancelCmd      `cmd:"" group:"use" help:"End evaluations."`
	Retry       RetryCmd       `cmd:"" group:"use" help:"Run failed evaluations again."`
	DeadLetters DeadLettersCmd `cmd:"" group:"use" help:"What the platform gave up on."`
	Callbacks   CallbacksCmd   `cmd:"" group:"use" help:"Who is told of the end of evaluations."`
	Batch       BatchCmd       `cmd:"" group:"use" help:"Run many programs from a file."`
	Languages   LanguagesCmd   `cmd:"" group:"use" help:"List the languages."`
	Isolation   IsolationCmd   `cmd:"" group:"use" help:"Show what the sandbox enforces."`
	Policies    PoliciesCmd    `cmd:"" group:"use" help:"Show the retry policies, and what each kind of failure leads to."`
	Status      StatusCmd      `cmd:"" group:"use" help:"Show the platform at one look."`
	Queues      QueuesCmd      `cmd:"" group:"use" help:"What waits, and since when."`
	Workers     WorkersCmd     `cmd:"" group:"use" help:"List the workers and what they do."`
	Executors   ExecutorsCmd   `cmd:"" group:"use" help:"List the executors and what they do."`

	Demo    DemoCmd    `cmd:"" group:"try" help:"Run the demonstrations and check their outcomes."`
	Bench   BenchCmd   `cmd:"" group:"try" help:"Measure throughput and latency."`
	Seed    SeedCmd    `cmd:"" group:"try" help:"Fill a platform with evaluations in every status."`
	Version VersionCmd `cmd:"" group:"try" help:"Print the version."`
}

// session is what every command is given.
type session struct {
	ctx            context.Context
	stdin          io.Reader
	stdout, stderr io.Writer
	json           bool // -o json
	hard           context.Context
}

// Streams are the standard streams of a process.
type Streams struct {
	In       io.Reader
	Out, Err io.Writer
}

// exitCode is an error that has been told already, or needs no telling.
type exitCode int

func (e exitCode) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

// New returns the parser of the command line, without a configuration file.
func New(g *Grammar, s Streams, options ...kong.Option) (*kong.Kong, error) {
	return kong.New(g, append([]kong.Option{
		kong.Name("crucible"),
		kong.Description("Runs code that nobody trusts, and says exactly what happened to it."),
		kong.Writers(s.Out, s.Err),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, WrapUpperBound: 100}),
		kong.ExplicitGroups([]kong.Group{
			{Key: "serve", Title: "Serve"}, {Key: "use", Title: "Use (needs a running API: --url or CRUCIBLE_URL)"}, {Key: "try", Title: "Try"},
		}),
	}, options...)...)
}

// Main runs the command line and returns the exit code. ctx ends when the
// program is asked to stop, hard when it has to stop at once.
func Main(ctx, hard context.Context, args []string, streams Streams) (code int) {
	type exited int
	defer func() { // kong's --help leaves through its exit function
		if r := recover(); r != nil {
			e, ok := r.(exited)
			if !ok {
				panic(r)
			}
			code = int(e)
		}
	}()
	var g Grammar
	parser, err := New(&g, streams, kong.Exit(func(code int) { panic(exited(code)) }))
	if err != nil {
		fmt.Fprintln(streams.Err, "crucible:", err)
		return exitError
	}
	parsed, err := parser.Parse(args)
	if err != nil {
		fmt.Fprintln(streams.Err, "crucible:", err)
		if _, ok := errors.AsType[*kong.ParseError](err); ok {
			fmt.Fprintln(streams.Err, "crucible --help shows what there is")
		}
		return exitUsage
	}
	s := &session{ctx: ctx, hard: hard, stdin: streams.In, stdout: streams.Out, stderr: streams.Err, json: g.Output == "json"}
	return s.exit(parsed.Run(s, parsed))
}

func (s *session) exit(err error) int {
	if err == nil {
		return exitOK
	}
	if code, ok := errors.AsType[exitCode](err); ok {
		return int(code)
	}
	if s.ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return 130
	}
	fmt.Fprintln(s.stderr, "crucible:", explain(err))
	if do := advice(err); do != "" {
		fmt.Fprintln(s.stderr, "  to do:", do)
	}
	if code, ok := errors.AsType[withCode](err); ok {
		return code.code
	}
	return exitError
}

// withCode is an error with an exit code of its own.
type withCode struct {
	error
	code int
}

func (e withCode) Unwrap() error { return e.error }

// explain is an error in words: an API's wrong fields one in each line, and
// never the Go of it.
func explain(err error) string {
	e, ok := errors.AsType[*eval.Error](err)
	if !ok {
		return err.Error()
	}
	if _, ok := errors.AsType[*client.Unreachable](err); ok {
		return err.Error()
	}
	if len(e.Fields) == 0 {
		return err.Error()
	}
	var out strings.Builder
	out.WriteString(e.Message)
	for _, f := range e.Fields {
		fmt.Fprintf(&out, "\n  %s: %s", f.Field, f.Message)
	}
	return out.String()
}

// advice is what can be done about an error that an API answered; "" where
// the error itself says it.
func advice(err error) string {
	e, ok := errors.AsType[*eval.Error](err)
	if !ok || len(e.Fields) > 0 {
		return ""
	}
	if e.RetryAfter > 0 {
		return strings.TrimSpace("Come back in " + e.RetryAfter.String() + ". " + e.Do)
	}
	return e.Do
}

// configFlag loads the configuration file.
type configFlag string

// BeforeResolve implements a hook of kong, on the grammar so that it is
// called without the flag too.
func (g *Grammar) BeforeResolve(ctx *kong.Context) error {
	path := configPath(ctx)
	if path == "" {
		dir, err := os.UserConfigDir()
		if err != nil {
			return nil // no home, no file
		}
		path = filepath.Join(dir, "crucible", "crucible.yaml")
		if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
			return nil
		}
	}
	file, err := config.Load(path)
	if err != nil {
		return err
	}
	if err := file.Validate(ctx.Model); err != nil {
		return err
	}
	ctx.AddResolver(file)
	return nil
}

// configPath is the file that the command line or the environment names.
func configPath(ctx *kong.Context) string {
	for _, flag := range ctx.Model.Flags {
		if flag.Name != "config" {
			continue
		}
		if v, ok := ctx.FlagValue(flag).(configFlag); ok && v != "" {
			return string(v)
		}
	}
	return os.Getenv("CRUCIBLE_CONFIG")
}
