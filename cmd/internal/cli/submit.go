package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/crucible-eval/crucible/cmd/internal/client"
	"github.com/crucible-eval/crucible/pkg/config"
	"github.com/crucible-eval/crucible/pkg/eval"
)

// exitCrucible is the exit code of submit when crucible, not the program,
// is at fault.
const exitCrucible = 125

// quickly is how long submit waits for the end before it follows the output.
const quickly = 200 * time.Millisecond

// SubmitCmd runs one program.
type SubmitCmd struct {
	remote
	File     string            `arg:"" placeholder:"FILE" help:"The program; - reads it from the standard input."`
	Args     []string          `arg:"" optional:"" name:"args" passthrough:"" help:"Arguments of the program."`
	Language string            `short:"l" help:"Its language, or with a version, such as python@3.11. Default: by the file's suffix."`
	Arg      []string          `sep:"none" placeholder:"ARG" help:"An argument of the program. May be repeated."`
	Stdin    string            `placeholder:"FILE" help:"What the program reads; - is the standard input."`
	Artifact []string          `sep:"none" placeholder:"GLOB" help:"A file, or a pattern of files, to bring back from the work folder; see crucible get --artifacts. May be repeated."`
	Env      map[string]string `mapsep:"none" placeholder:"NAME=VALUE" help:"An environment variable of the program. May be repeated."`
	Wait     bool              `negatable:"" default:"true" help:"Wait for the end, show the output live, and exit as the program does (the default)."`

	Wall      time.Duration `group:"Limits" placeholder:"10s" help:"Real time."`
	CPU       time.Duration `name:"cpu" group:"Limits" placeholder:"10s" help:"CPU time, summed over all processes."`
	Memory    config.Size   `group:"Limits" placeholder:"256MiB" help:"Memory, all processes together."`
	Processes int64         `group:"Limits" placeholder:"N" help:"Processes and threads at once."`
	MaxOutput config.Size   `group:"Limits" placeholder:"1MiB" help:"Output: each of stdout and stderr."`
	Disk      config.Size   `group:"Limits" placeholder:"64MiB" help:"The work folder."`

	Priority       string        `help:"Which queue: critical, high, default or low."`
	RetryPolicy    string        `placeholder:"NAME" help:"What to do when the platform fails: default, aggressive, conservative or quota_exceeded."`
	ExpiresIn      time.Duration `placeholder:"90s" help:"Fail it when it has not ended after this time."`
	MinIsolation   string        `placeholder:"LEVEL" help:"Refuse a sandbox weaker than this."`
	Warm           string        `placeholder:"MODE" help:"Go no further than this to spare the start of the interpreter: off, prestart or fork."`
	Tag            []string      `help:"A tag to find it by. May be repeated."`
	CallbackURL    string        `name:"callback-url" placeholder:"URL" help:"Where to send the evaluation when it has ended."`
	IdempotencyKey string        `placeholder:"KEY" help:"The same key and program again give the same evaluation for a day."`
}

// Run implements a kong command.
func (c *SubmitCmd) Run(s *session) error {
	err := c.run(s)
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[exitCode](err); ok {
		return err
	}
	return withCode{err, exitCrucible}
}

func (c *SubmitCmd) run(s *session) error {
	api, err := c.open(2)
	if err != nil {
		return err
	}
	defer api.Close()
	spec, err := c.spec(s, api)
	if err != nil {
		return err
	}
	if !c.Wait {
		e, err := api.Submit(s.ctx, spec, 0, c.IdempotencyKey)
		if err != nil {
			return err
		}
		if s.json {
			return writeJSON(s.stdout, e)
		}
		_, err = fmt.Fprintln(s.stdout, e.ID)
		return err
	}
	e, err := api.Submit(s.ctx, spec, quickly, c.IdempotencyKey)
	if err != nil {
		return err
	}
	if s.json {
		if e, err = api.Await(s.ctx, e.ID); err != nil {
			return err
		}
		if err := writeJSON(s.stdout, e); err != nil {
			return err
		}
		return programExit(e)
	}
	out := &tail{api: api, stdout: s.stdout, stderr: s.stderr}
	if e, err = out.follow(s, e, false); err != nil {
		if s.ctx.Err() != nil {
			fmt.Fprintf(s.stderr, "crucible: stopped waiting; the evaluation goes on: crucible get %s\n", e.ID)
		}
		return err
	}
	verdictLine(s, e)
	return programExit(e)
}

// spec makes the request of the flags.
func (c *SubmitCmd) spec(s *session, api *client.Client) (eval.Spec, error) {
	spec := eval.Spec{
		Priority: eval.Priority(c.Priority), RetryPolicy: c.RetryPolicy, ExpiresIn: eval.Duration(c.ExpiresIn), Tags: c.Tag, CallbackURL: c.CallbackURL,
		Program: eval.Program{
			Args: append(slices.Clone(c.Arg), c.Args...), Env: c.Env, MinIsolation: c.MinIsolation, Warm: eval.Warm(c.Warm),
			Limits: eval.Limits{
				WallMS: c.Wall.Milliseconds(), CPUMS: c.CPU.Milliseconds(), MemoryBytes: int64(c.Memory),
				Processes: c.Processes, OutputBytes: int64(c.MaxOutput), DiskBytes: int64(c.Disk),
			},
		},
	}
	if c.File == "-" && c.Stdin == "-" {
		return spec, errors.New("the program and its input cannot both be the standard input: put one into a file")
	}
	for _, pattern := range c.Artifact {
		spec.Artifacts = append(spec.Artifacts, eval.Pattern(pattern))
	}
	code, err := readFile(s, c.File)
	if err != nil {
		return spec, err
	}
	spec.Code = code
	spec.Language, spec.Version, _ = strings.Cut(c.Language, "@")
	if c.Stdin != "" {
		input, err := readFile(s, c.Stdin)
		if err != nil {
			return spec, err
		}
		spec.Stdin = input
	}
	if spec.Language == "" {
		spec.Language, err = languageOf(s, api, c.File)
	}
	return spec, err
}

func readFile(s *session, name string) ([]byte, error) {
	if name == "-" {
		return io.ReadAll(s.stdin)
	}
	return os.ReadFile(name)
}

// languageOf finds a file's language by its suffix.
func languageOf(s *session, api *client.Client, file string) (string, error) {
	if file == "-" {
		return "", errors.New("name the language of what comes from the standard input: --language python")
	}
	suffix := strings.ToLower(filepath.Ext(file))
	all, err := api.Languages(s.ctx)
	if err != nil {
		return "", err
	}
	for _, l := range all {
		if suffix != "" && slices.Contains(l.Extensions, suffix) {
			return l.ID, nil
		}
	}
	return "", fmt.Errorf("no language has files like %s: name it with --language; crucible languages lists them", filepath.Base(file))
}

// programExit is how a shell would see the program's end.
func programExit(e client.Evaluation) error {
	code := exitOK
	switch {
	case e.Status == eval.Cancelled:
		code = 130
	case e.Status != eval.Completed || e.Result == nil:
		code = exitCrucible
	case e.Verdict == eval.TimeLimit:
		code = 124
	case e.Result.Signal != "":
		code = 128 + signalNumber(e.Result.Signal)
	case e.Verdict == eval.Accepted:
	case e.Result.ExitCode != nil && *e.Result.ExitCode != 0:
		code = *e.Result.ExitCode
	default: // wrong answer, compile error, output limit
		code = exitError
	}
	if code == exitOK {
		return nil
	}
	return exitCode(code)
}

// signalNumber is Linux's, on any system: that is where programs run.
func signalNumber(name string) int {
	return map[string]int{
		"SIGHUP": 1, "SIGINT": 2, "SIGQUIT": 3, "SIGILL": 4, "SIGTRAP": 5, "SIGABRT": 6, "SIGBUS": 7, "SIGFPE": 8, "SIGKILL": 9,
		"SIGUSR1": 10, "SIGSEGV": 11, "SIGUSR2": 12, "SIGPIPE": 13, "SIGALRM": 14, "SIGTERM": 15, "SIGSTKFLT": 16,
		"SIGXCPU": 24, "SIGXFSZ": 25, "SIGVTALRM": 26, "SIGPROF": 27, "SIGIO": 29, "SIGPWR": 30, "SIGSYS": 31,
	}[name]
}

func printTests(to io.Writer, p paint, tests []eval.TestResult) {
	for i, t := range tests {
		name := t.Name
		if name == "" {
			name = fmt.Sprintf("test %d", i+1)
		}
		line := "  " + printable([]byte(name)) + ": " + p.outcome(eval.Completed, t.Verdict)
		if t.Message != "" {
			line += p.faint("  " + printable([]byte(t.Message)))
		}
		fmt.Fprintln(to, line)
	}
}

// verdictLine tells people how it ended; nothing needs to be said about a
// program that did well and is not looked at.
func verdictLine(s *session, e client.Evaluation) {
	p := paintFor(s.stderr)
	switch {
	case e.Status == eval.Completed && e.Result != nil:
		r := e.Result
		line := p.outcome(e.Status, e.Verdict)
		if e.Cause != "" {
			line += " (" + string(e.Cause) + ")"
		}
		line += p.faint(fmt.Sprintf("  wall %s  cpu %s  memory %s  id %s", ms(r.WallMS), ms(r.CPUMS), bytesText(r.MemoryPeakBytes), e.ID))
		fmt.Fprintln(s.stderr, line)
		if r.Explanation != "" && e.Verdict != eval.Accepted {
			fmt.Fprintln(s.stderr, r.Explanation)
		}
		printTests(s.stderr, p, r.Tests)
		if n := len(r.Artifacts); n > 0 {
			fmt.Fprintf(s.stderr, "%s: crucible get %s --artifacts DIR\n", plural(n, "artifact"), e.ID)
		}
	case e.Failure != nil:
		fmt.Fprintf(s.stderr, "%s: %s  id %s\n", p.outcome(e.Status, e.Verdict), e.Failure.Message, e.ID)
	default:
		fmt.Fprintf(s.stderr, "%s: %s  id %s\n", p.outcome(e.Status, e.Verdict), e.Reason, e.ID)
	}
}
