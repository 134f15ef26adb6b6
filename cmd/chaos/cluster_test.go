//go:build chaos && linux

package chaos_test

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/crucible-eval/crucible/cmd/internal/client"
	"github.com/crucible-eval/crucible/pkg/observe"
	"github.com/crucible-eval/crucible/pkg/remote"
	"github.com/crucible-eval/crucible/pkg/task"
	"github.com/crucible-eval/crucible/pkg/testkit"
)

const (
	serviceToken = "between-services"
	workers      = 2
	executors    = 2
	slots        = 2 // of each executor, and of each worker
)

// cluster is Crucible as several processes, with networks between them that can be broken.
type cluster struct {
	t       testing.TB
	dir     string // logs, data, small disks
	timings timings
	colours bool
	log     *os.File // what the run says, and more
	began   time.Time

	redis    *testkit.RedisServer
	postgres *testkit.PostgresServer
	storage  *daemon
	api      *daemon
	workers  []*daemon
	runners  []*daemon // the executors

	database *proxy   // between storage and PostgreSQL
	toStore  []*proxy // between each worker and storage
	toRunner []*proxy // between the workers and each executor

	disks   map[string]string // small file systems that can be filled, by what is on them
	queue   *task.Redis
	store   *remote.Store
	load    *load
	history *history
	unseen  context.CancelFunc // ends the history
	hunters sync.WaitGroup     // of poison
}

func newCluster(t testing.TB, ctx context.Context) *cluster {
	dir := options.keep
	if dir == "" {
		made, err := os.MkdirTemp("", "crucible-chaos-")
		require.NoError(t, err)
		dir = made
	}
	dir, err := filepath.Abs(dir)
	require.NoError(t, err)
	require.NoError(t, os.MkdirAll(dir, 0o755))
	require.NoError(t, os.Chmod(dir, 0o755)) // PostgreSQL runs as somebody else
	c := &cluster{t: t, dir: dir, timings: usual, colours: observe.Colours(os.Stderr), began: time.Now(), disks: map[string]string{}}
	if options.fast {
		c.timings = quick
	}
	c.log, err = os.Create(filepath.Join(dir, "run.log"))
	require.NoError(t, err)
	t.Cleanup(func() {
		_ = c.log.Close()
		if t.Failed() || options.keep != "" {
			fmt.Fprintf(os.Stderr, "the logs of all processes are in %s\n", dir)
			return
		}
		_ = os.RemoveAll(dir)
	})

	c.redis = testkit.Redis(t)
	c.startPostgres()
	c.startServices()
	c.startClients(ctx)
	return c
}

// startPostgres starts PostgreSQL, on a small file system of its own where we may mount one.
func (c *cluster) startPostgres() {
	limits := []testkit.Option{testkit.Private(), testkit.WithSetting("max_wal_size", "64MB"), testkit.WithSetting("min_wal_size", "32MB")}
	before, had := os.LookupEnv("TMPDIR")
	if disk, ok := c.mount("database", "1g"); ok {
		require.NoError(c.t, os.Chmod(disk, 0o755|os.ModeSticky))
		require.NoError(c.t, os.Setenv("TMPDIR", disk))
	}
	c.postgres = testkit.Postgres(c.t, limits...)
	if had {
		require.NoError(c.t, os.Setenv("TMPDIR", before))
	} else {
		require.NoError(c.t, os.Unsetenv("TMPDIR"))
	}
}

// mount makes a small file system, where we are root.
func (c *cluster) mount(what, size string) (string, bool) {
	path := filepath.Join(c.dir, "disk-"+what)
	require.NoError(c.t, os.MkdirAll(path, 0o755))
	if err := unix.Mount("crucible-chaos", path, "tmpfs", 0, "size="+size+",mode=0755"); err != nil {
		return path, false
	}
	c.disks[what] = path
	c.t.Cleanup(func() { _ = unix.Unmount(path, unix.MNT_DETACH) })
	return path, true
}

func (c *cluster) startServices() {
	url := c.postgres.NewDatabase(c.t)
	out, err := exec.Command(program, "migrate", "--database-url", url, "--data-dir", c.dir).CombinedOutput()
	require.NoError(c.t, err, string(out))
	c.database = newProxy(c.t, hostOf(c.t, url))
	data, _ := c.mount("blobs", "256m")

	env := []string{
		"CRUCIBLE_SERVICE_TOKEN=" + serviceToken, "CRUCIBLE_REDIS_URL=" + c.redis.URL, "CRUCIBLE_DRAIN_TIMEOUT=10s",
		"CRUCIBLE_LEASE=" + c.timings.Lease.String(), "CRUCIBLE_RECONCILE_EVERY=" + c.timings.Reconcile.String(), "CRUCIBLE_AGAIN=" + c.timings.Again.String(),
	}
	start := func(name string, more []string, args ...string) *daemon {
		return startDaemon(c.t, c.dir, name, c.timings.Restart, append(slices.Clone(env), more...), args...)
	}
	c.storage = start("storage", []string{"CRUCIBLE_DATABASE_URL=" + strings.Replace(url, hostOf(c.t, url), c.database.addr(), 1)}, "storage", "--data-dir", data)
	var runners []string
	for n := range executors {
		d := start(fmt.Sprintf("executor-%d", n+1), nil, "executor", "--slots", fmt.Sprint(slots))
		c.runners = append(c.runners, d)
		c.toRunner = append(c.toRunner, newProxy(c.t, hostOf(c.t, d.url)))
		runners = append(runners, "http://"+c.toRunner[n].addr())
	}
	env = append(env, "CRUCIBLE_EXECUTOR_URLS="+strings.Join(runners, ","))
	for n := range workers {
		c.toStore = append(c.toStore, newProxy(c.t, hostOf(c.t, c.storage.url)))
		c.workers = append(c.workers, start(fmt.Sprintf("worker-%d", n+1), []string{"CRUCIBLE_STORAGE_URL=http://" + c.toStore[n].addr()}, "worker", "--concurrency", fmt.Sprint(slots)))
	}
	c.api = start("api", []string{"CRUCIBLE_STORAGE_URL=" + c.storage.url}, "api")
	c.awaitReady()
}

func (c *cluster) startClients(ctx context.Context) {
	var err error
	c.queue, err = task.Open(ctx, task.RedisConfig{URL: c.redis.URL}, nil)
	require.NoError(c.t, err)
	c.store = remote.NewStore(c.storage.url, serviceToken, nil)
	api, err := client.New(c.api.url, "", 2*inFlight)
	require.NoError(c.t, err)
	c.load = newLoad(api, c.say)
	follower, cancel := context.WithCancel(context.WithoutCancel(ctx))
	c.history, c.unseen = follow(follower, c.store), cancel
	c.t.Cleanup(func() {
		cancel()
		c.history.done.Wait()
		api.Close()
		_ = c.store.Close()
		_ = c.queue.Close()
	})
}

func hostOf(t testing.TB, address string) string {
	u, err := url.Parse(address)
	require.NoError(t, err)
	return u.Host
}

func (c *cluster) daemons() []*daemon {
	return slices.Concat([]*daemon{c.storage, c.api}, c.workers, c.runners)
}

// awaitReady waits until every service takes work.
func (c *cluster) awaitReady() {
	c.t.Helper()
	for _, d := range c.daemons() {
		require.NoError(c.t, d.ready(time.Minute))
	}
}

// stop ends all services in good order.
func (c *cluster) stop() {
	c.unseen()
	c.history.done.Wait()
	for _, d := range slices.Backward(c.daemons()) {
		if err := d.end(30 * time.Second); err != nil {
			c.load.problem("%v", err)
		}
		d.mu.Lock()
		for _, s := range d.surprise {
			c.load.problem("%s; see %s", s, d.log.Name())
		}
		d.mu.Unlock()
	}
}

// unwell says whether there is no sense in going on.
func (c *cluster) unwell() bool {
	c.load.mu.Lock()
	defer c.load.mu.Unlock()
	return len(c.load.problems) > 20
}

// say tells those who watch the run how it goes.
func (c *cluster) say(format string, args ...any) {
	at, text := fmt.Sprintf("%7.1f s  ", time.Since(c.began).Seconds()), fmt.Sprintf(format, args...)
	c.note("%s%s", at, text)
	if c.colours {
		at = "\x1b[2m" + at + "\x1b[0m"
	}
	fmt.Fprintln(os.Stderr, at+text)
}

// note writes a line into the log of the run.
func (c *cluster) note(format string, args ...any) { fmt.Fprintf(c.log, format+"\n", args...) }
