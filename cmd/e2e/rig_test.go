//go:build e2e && linux

package e2e_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/cmd/internal/client"
	"github.com/crucible-eval/crucible/pkg/testkit"
)

// program is the built crucible.
var program string

func TestMain(m *testing.M) { os.Exit(build(m)) }

func build(m *testing.M) int {
	dir, err := os.MkdirTemp("", "crucible-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = os.RemoveAll(dir) }()
	program = filepath.Join(dir, "crucible")
	cmd := exec.Command("go", "build", "-o", program, "../crucible")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build crucible: %v\n%s", err, out)
		return 1
	}
	return testkit.Services(m).Run()
}

// process is a started crucible.
type process struct {
	url    string
	pid    int
	done   chan struct{}
	state  *os.ProcessState // once done is closed
	stdout *output
	stderr *output
}

// output collects what a process writes.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// launch starts crucible and does not wait for anything. It is killed when
// the test ends, or the test binary does.
func launch(t *testing.T, env []string, args ...string) *process {
	t.Helper()
	p := &process{done: make(chan struct{}), stdout: &output{}, stderr: &output{}}
	cmd := exec.Command(program, args...)
	cmd.Stdout, cmd.Stderr = p.stdout, p.stderr
	cmd.Env = append(append(os.Environ(), "CRUCIBLE_CONFIG=/dev/null"), env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // the death signal follows the thread
		defer close(p.done)
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // its state says how
			p.state = cmd.ProcessState
		}
	}()
	require.NoError(t, <-started)
	p.pid = cmd.Process.Pid
	t.Cleanup(func() {
		p.kill9()
		if t.Failed() {
			t.Logf("log of crucible %s:\n%s", strings.Join(args, " "), lastLines(p.stderr.String(), 60))
		}
	})
	return p
}

func lastLines(text string, n int) string {
	lines := strings.Split(text, "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// start launches a service and waits until it is ready.
func start(t *testing.T, env []string, args ...string) *process {
	t.Helper()
	p := launch(t, env, append([]string{"-o", "json"}, args...)...)
	testkit.EventuallyWithin(t, time.Minute, func() bool {
		select {
		case <-p.done:
			return true
		default:
		}
		var ready struct {
			URL string `json:"url"`
		}
		if json.Unmarshal([]byte(p.stdout.String()), &ready) == nil {
			p.url = ready.URL
		}
		return p.url != ""
	}, "crucible "+strings.Join(args, " ")+" is ready")
	require.NotEmpty(t, p.url, "crucible ended: %s", p.stderr)
	return p
}

func (p *process) signal(t *testing.T, s syscall.Signal) {
	t.Helper()
	require.NoError(t, syscall.Kill(p.pid, s))
}

func (p *process) kill9() {
	select {
	case <-p.done:
	default:
		_ = syscall.Kill(p.pid, syscall.SIGKILL) // it may end at this moment
		<-p.done
	}
}

// exit waits for the end and returns the exit code.
func (p *process) exit(t *testing.T, within time.Duration) int {
	t.Helper()
	select {
	case <-p.done:
		return p.state.ExitCode()
	case <-time.After(within):
		require.Fail(t, "crucible did not end in time", "%s", lastLines(p.stderr.String(), 40))
		return -1
	}
}

func (p *process) client(t *testing.T) *client.Client { return newClient(t, p.url) }

func newClient(t *testing.T, url string) *client.Client {
	t.Helper()
	c, err := client.New(url, "", 16)
	require.NoError(t, err)
	t.Cleanup(c.Close)
	return c
}

// target is a running platform.
type target struct {
	api      *client.Client
	url      string
	redis    *testkit.RedisServer    // nil: embedded
	postgres *testkit.PostgresServer // nil: SQLite

	// Of the API and the worker, where each is a process of its own.
	door, worker *process
	env          []string
}

func embedded(t *testing.T) target {
	p := start(t, nil, "up", "--listen", "127.0.0.1:0", "--data-dir", t.TempDir())
	return target{api: p.client(t), url: p.url}
}

func real(t *testing.T) target {
	redis, postgres := testkit.Redis(t), testkit.Postgres(t, testkit.Private())
	p := start(t, nil, "up", "--listen", "127.0.0.1:0", "--data-dir", t.TempDir(), "--redis-url", redis.URL, "--database-url", postgres.NewDatabase(t))
	return target{api: p.client(t), url: p.url, redis: redis, postgres: postgres}
}

// split starts four processes that share a token.
func split(t *testing.T) target { return splitWith(t) }

// splitWith does so with more in their environment.
func splitWith(t *testing.T, more ...string) target {
	return splitBehind(t, func(executor string) string { return executor }, more...)
}

// splitBehind puts something between the worker and the executor: door gets the executor's URL and returns its own.
func splitBehind(t *testing.T, door func(executor string) string, more ...string) target {
	redis, postgres := testkit.Redis(t), testkit.Postgres(t, testkit.Private())
	database := postgres.NewDatabase(t)
	out, err := exec.CommandContext(t.Context(), program, "migrate", "--database-url", database, "--data-dir", t.TempDir()).CombinedOutput()
	require.NoError(t, err, string(out))
	env := append(more, "CRUCIBLE_SERVICE_TOKEN=between-services", "CRUCIBLE_REDIS_URL="+redis.URL, "CRUCIBLE_LISTEN=127.0.0.1:0")
	storage := start(t, env, "storage", "--database-url", database, "--data-dir", t.TempDir())
	executor := start(t, env, "executor")
	env = append(env, "CRUCIBLE_STORAGE_URL="+storage.url, "CRUCIBLE_EXECUTOR_URLS="+door(executor.url))
	worker := start(t, env, "worker")
	api := start(t, env, "api")
	return target{api: api.client(t), url: api.url, redis: redis, postgres: postgres, door: api, worker: worker, env: env}
}

func contains(p *process, text string) bool { return strings.Contains(p.stderr.String(), text) }
