package testkit_test

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/crucible-eval/crucible/pkg/testkit"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(testkit.Services(m)) }

func client(t *testing.T, server *testkit.RedisServer) *redis.Client {
	t.Helper()
	options, err := redis.ParseURL(server.URL)
	require.NoError(t, err)
	options.MaxRetries, options.ReadTimeout = -1, 200*time.Millisecond
	c := redis.NewClient(options)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func query(url, statement string) ([]string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	conn, err := pgconn.Connect(ctx, url)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close(ctx) }()
	results, err := conn.Exec(ctx, statement).ReadAll()
	if err != nil {
		return nil, err
	}
	var values []string
	for _, result := range results {
		for _, row := range result.Rows {
			values = append(values, string(row[0]))
		}
	}
	return values, nil
}

// ended is true when no process has this id, or a zombie only.
func ended(pid int) bool {
	if syscall.Kill(pid, 0) != nil {
		return true
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && strings.Contains(string(stat), ") Z ")
}

func TestRedisForgetsWithoutAOF(t *testing.T) {
	t.Parallel()
	server := testkit.Redis(t)
	c := client(t, server)
	require.NoError(t, c.Set(t.Context(), "k", "v", 0).Err())
	server.Kill9()
	require.Error(t, c.Get(t.Context(), "k").Err())
	server.Start()
	require.ErrorIs(t, c.Get(t.Context(), "k").Err(), redis.Nil)
}

func TestRedisKeepsItsAOF(t *testing.T) {
	t.Parallel()
	server := testkit.Redis(t, testkit.WithAOF())
	c := client(t, server)
	require.NoError(t, c.Set(t.Context(), "k", "v", 0).Err())
	server.Kill9()
	server.Start()
	server.Stop()
	server.Stop()
	server.Start()
	require.Equal(t, "v", c.Get(t.Context(), "k").Val())
}

func TestRedisPauseAnswersNothingAndResumeGoesOn(t *testing.T) {
	t.Parallel()
	server := testkit.Redis(t, testkit.WithSetting("maxmemory-policy", "allkeys-lru"))
	c := client(t, server)
	server.Pause()
	server.Pause()
	var timeout net.Error
	require.ErrorAs(t, c.Ping(t.Context()).Err(), &timeout)
	require.True(t, timeout.Timeout())
	server.Resume()
	server.Resume()
	require.Equal(t, "allkeys-lru", c.ConfigGet(t.Context(), "maxmemory-policy").Val()["maxmemory-policy"])
	server.Pause() // and a paused one can be stopped
	server.Stop()
	require.True(t, ended(server.PID()))
}

func TestServersEndWithTheirTest(t *testing.T) {
	t.Parallel()
	var pids []int
	t.Run("inner", func(t *testing.T) {
		redis, postgres := testkit.Redis(t), testkit.Postgres(t, testkit.Private())
		redis.Pause()
		postgres.Pause()
		pids = append(pids, redis.PID(), postgres.PID())
	})
	for _, pid := range pids {
		require.True(t, ended(pid))
	}
}

func TestPostgresIsSharedAndItsDatabasesAreNot(t *testing.T) {
	t.Parallel()
	first, second := testkit.Postgres(t), testkit.Postgres(t)
	require.Equal(t, first.PID(), second.PID())
	a, b := first.NewDatabase(t), second.NewDatabase(t)
	_, err := query(a, "CREATE TABLE t (x int)")
	require.NoError(t, err)
	_, err = query(b, "SELECT * FROM t")
	require.ErrorContains(t, err, `relation "t" does not exist`)
}

func TestPostgresDatabaseIsDroppedThoughInUse(t *testing.T) {
	t.Parallel()
	server := testkit.Postgres(t)
	var url string
	t.Run("inner", func(t *testing.T) {
		url = server.NewDatabase(t)
		_, err := pgconn.Connect(context.Background(), url) // Left open on purpose.
		require.NoError(t, err)
	})
	_, err := query(url, "SELECT 1")
	require.ErrorContains(t, err, "does not exist")
}

func TestPostgresKeepsWhatItHasCommitted(t *testing.T) {
	t.Parallel()
	server := testkit.Postgres(t, testkit.Private())
	url := server.NewDatabase(t)
	_, err := query(url, "CREATE TABLE t (x int); INSERT INTO t VALUES (1)")
	require.NoError(t, err)
	for _, fault := range []func(){server.Kill9, server.Stop, server.Kill9} {
		fault()
		_, err = query(url, "SELECT 1")
		require.Error(t, err)
		server.Start()
		values, err := query(url, "SELECT x FROM t")
		require.NoError(t, err)
		require.Equal(t, []string{"1"}, values)
	}
}

func TestPostgresPauseFreezesOpenConnectionsToo(t *testing.T) {
	t.Parallel()
	server := testkit.Postgres(t, testkit.Private())
	conn, err := pgconn.Connect(t.Context(), server.URL)
	require.NoError(t, err)
	defer func() { _ = conn.Close(context.Background()) }()
	server.Pause()
	answered := make(chan error, 1)
	go func() { answered <- conn.Exec(context.Background(), "SELECT 1").Close() }()
	select {
	case <-answered:
		t.Fatal("a paused server answered")
	case <-time.After(100 * time.Millisecond):
	}
	server.Resume()
	require.NoError(t, <-answered)
}

// TestHelper is no test: TestServersDieWithAKilledTestBinary runs it in a process of its own.
func TestHelper(t *testing.T) {
	if os.Getenv("TESTKIT_HELPER") == "" {
		return
	}
	paused, running, redis := testkit.Postgres(t, testkit.Private()), testkit.Postgres(t), testkit.Redis(t)
	conn, err := pgconn.Connect(t.Context(), paused.URL)
	require.NoError(t, err)
	paused.Pause()
	fmt.Println("PIDS", paused.PID(), conn.PID(), running.PID(), redis.PID())
	select {}
}

func TestServersDieWithAKilledTestBinary(t *testing.T) {
	t.Parallel()
	testkit.Postgres(t) // skips where there is none
	testkit.Redis(t)
	temp, err := os.MkdirTemp("/tmp", "testkit-killed-")
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(temp) })
	require.NoError(t, os.Chmod(temp, 0o755))

	cmd := exec.Command(os.Args[0], "-test.run=^TestHelper$", "-test.v")
	cmd.Env = append(os.Environ(), "TESTKIT_HELPER=1", "TMPDIR="+temp)
	output, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	var pids []int
	for scanner := bufio.NewScanner(output); len(pids) == 0 && scanner.Scan(); {
		if list, found := strings.CutPrefix(scanner.Text(), "PIDS "); found {
			for word := range strings.FieldsSeq(list) {
				pid, err := strconv.Atoi(word)
				require.NoError(t, err)
				pids = append(pids, pid)
			}
		}
	}
	require.Len(t, pids, 4)
	for _, pid := range pids {
		require.False(t, ended(pid))
	}
	require.NoError(t, cmd.Process.Kill())
	_ = cmd.Wait()
	for _, pid := range pids {
		testkit.Eventually(t, func() bool { return ended(pid) }, fmt.Sprintf("process %d has ended", pid))
	}

	// The folders that the killed one left, and PostgreSQL's shared memory, go when the next one needs a folder there.
	segments := sharedMemory(t, temp)
	left, err := filepath.Glob(filepath.Join(temp, "crucible-testkit-*"))
	require.NoError(t, err)
	require.Len(t, left, 3)
	cmd = exec.Command(os.Args[0], "-test.run=^TestRedisForgetsWithoutAOF$")
	cmd.Env = append(os.Environ(), "TMPDIR="+temp)
	said, err := cmd.CombinedOutput()
	require.NoError(t, err, string(said))
	left, err = filepath.Glob(filepath.Join(temp, "crucible-*"))
	require.NoError(t, err)
	require.Empty(t, left)
	for _, id := range segments {
		_, err := unix.SysvShmCtl(id, unix.IPC_STAT, &unix.SysvShmDesc{})
		require.Error(t, err, "segment %d", id)
	}
}

// sharedMemory reads which segments the servers below parent have.
func sharedMemory(t *testing.T, parent string) []int {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(parent, "*", "data", "postmaster.pid"))
	require.NoError(t, err)
	require.Len(t, paths, 2)
	var ids []int
	for _, path := range paths {
		content, err := os.ReadFile(path)
		require.NoError(t, err)
		id, err := strconv.Atoi(strings.Fields(strings.Split(string(content), "\n")[6])[1])
		require.NoError(t, err)
		_, err = unix.SysvShmCtl(id, unix.IPC_STAT, &unix.SysvShmDesc{})
		require.NoError(t, err)
		ids = append(ids, id)
	}
	return ids
}

// recorder is a test that remembers how it ended.
type recorder struct {
	testing.TB
	skipped, failed string
}

func (r *recorder) Helper()                   {}
func (r *recorder) Skip(args ...any)          { r.skipped = fmt.Sprint(args...) }
func (r *recorder) Fatalf(f string, a ...any) { r.failed = fmt.Sprintf(f, a...); panic(r) }
func (r *recorder) run(test func(testing.TB)) {
	defer func() { _ = recover() }()
	test(r)
}

func TestSkipNamesThePackageAndFailsWhereServicesAreRequired(t *testing.T) {
	skip := func(t testing.TB) { testkit.Skip(t, "redis-server", "redis-server") }
	t.Setenv("REQUIRE_SERVICES", "")
	var r recorder
	r.run(skip)
	require.Contains(t, r.skipped, "run `make deps`, or install the package redis-server")
	require.Empty(t, r.failed)

	t.Setenv("REQUIRE_SERVICES", "1")
	r = recorder{}
	r.run(skip)
	require.Contains(t, r.failed, "redis-server is not installed")
	require.Empty(t, r.skipped)
}

func TestEventuallySaysWhatItWaitedFor(t *testing.T) {
	t.Parallel()
	calls := 0
	testkit.Eventually(t, func() bool { calls++; return calls == 3 }, "three calls")
	require.Equal(t, 3, calls)
	var r recorder
	r.run(func(t testing.TB) {
		testkit.EventuallyWithin(t, time.Millisecond, func() bool { return false }, "pigs fly")
	})
	require.Contains(t, r.failed, "pigs fly")
}

func TestFreePortCanBeListenedOn(t *testing.T) {
	t.Parallel()
	seen := map[int]bool{}
	for range 20 {
		port := testkit.FreePort(t)
		require.False(t, seen[port])
		seen[port] = true
		listener, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		require.NoError(t, err)
		require.NoError(t, listener.Close())
	}
}

func TestMiniRedisAnswers(t *testing.T) {
	t.Parallel()
	mini := testkit.MiniRedis(t)
	c := redis.NewClient(&redis.Options{Addr: mini.Addr()})
	t.Cleanup(func() { _ = c.Close() })
	require.NoError(t, c.Ping(t.Context()).Err())
}
