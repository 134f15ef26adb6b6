package testkit

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
)

// PostgresServer is a PostgreSQL server. Its methods fail the test when they cannot do their work, so they are
// called from the test's own goroutine.
type PostgresServer struct {
	*faults
	URL string // the database "postgres", as superuser; tests do better with NewDatabase
}

// Postgres gives a PostgreSQL server. All tests of a binary share one, which starts with the first test that asks
// and ends with the last one that uses it, or with the whole binary where TestMain calls [Main]. With [Private] the
// test has its own, which ends with it.
func Postgres(t testing.TB, options ...Option) *PostgresServer {
	t.Helper()
	binaries, found := postgresBinaries()
	if !found {
		Skip(t, "PostgreSQL (initdb and postgres)", "postgresql")
	}
	chosen := choose(options)
	start := func() (*server, error) { return newPostgres(binaries, chosen) }
	var owned *server
	var err error
	stop := shared.release
	if chosen.private {
		owned, err = start()
		stop = func() { owned.close() }
	} else {
		owned, err = shared.acquire(start)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	return &PostgresServer{
		faults: &faults{t: t, server: owned, shared: !chosen.private},
		URL:    postgresURL(owned.port, "postgres"),
	}
}

var databases atomic.Int64 // numbers the databases of this binary

// NewDatabase makes an empty database, dropped with the test, and returns its URL.
func (s *PostgresServer) NewDatabase(t testing.TB) string {
	t.Helper()
	name := fmt.Sprintf("test_%d", databases.Add(1))
	if err := execPostgres(s.URL, "CREATE DATABASE "+name); err != nil {
		t.Fatalf("create a database: %v", err)
	}
	t.Cleanup(func() {
		if s.server.process.alive() {
			_ = execPostgres(s.URL, "DROP DATABASE IF EXISTS "+name+" WITH (FORCE)")
		}
	})
	return postgresURL(s.server.port, name)
}

func postgresURL(port int, database string) string {
	return fmt.Sprintf("postgres://postgres@127.0.0.1:%d/%s?sslmode=disable", port, database)
}

func execPostgres(url, statement string) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conn, err := pgconn.Connect(ctx, url)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }()
	return conn.Exec(ctx, statement).Close()
}

func newPostgres(binaries string, chosen choice) (_ *server, err error) {
	credential, err := unprivileged()
	if err != nil {
		return nil, err
	}
	dir, err := newFolder(credential)
	if err != nil {
		return nil, err
	}
	server := &server{
		name:       "postgres",
		folder:     dir,
		credential: credential,
		argv: func(port int) []string {
			argv := []string{
				filepath.Join(binaries, "postgres"), "-D", dir.join("data"), "-p", strconv.Itoa(port),
				"-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=", "-c", "max_connections=200",
				"-c", "shared_buffers=64MB",
			}
			if !chosen.fsync {
				argv = append(argv, "-c", "fsync=off", "-c", "full_page_writes=off")
			}
			for _, setting := range chosen.settings {
				argv = append(argv, "-c", setting.name+"="+setting.value)
			}
			return argv
		},
		ping:     func(port int) error { return execPostgres(postgresURL(port, "postgres"), "SELECT 1") },
		stopWith: syscall.SIGINT,  // "fast": ends sessions, writes a checkpoint
		dropWith: syscall.SIGQUIT, // "immediate": no checkpoint, but gives its shared memory back
	}
	defer func() {
		if err != nil {
			server.close()
		}
	}()
	if err := initdb(binaries, dir, credential); err != nil {
		return nil, err
	}
	if err := server.launch(); err != nil {
		return nil, err
	}
	return server, nil
}

func initdb(binaries string, dir *folder, credential *syscall.Credential) error {
	process, err := startProcess([]string{
		filepath.Join(binaries, "initdb"), "-D", dir.join("data"), "--username=postgres", "--auth=trust",
		"--encoding=UTF8", "--locale=C", "--no-sync", "--no-instructions",
	}, dir.path, dir.join("log"), credential)
	if err != nil {
		return fmt.Errorf("initdb: %w", err)
	}
	<-process.done
	process.guard.release()
	if !process.cmd.ProcessState.Success() {
		return fmt.Errorf("initdb: %v; the end of its log:\n%s", process.cmd.ProcessState, tail(dir.join("log")))
	}
	return nil
}

// postgresBinaries finds the folder with initdb and postgres: on the path, or where distributions hide it.
func postgresBinaries() (string, bool) {
	var folders []string
	if path, err := exec.LookPath("initdb"); err == nil {
		if path, err = filepath.EvalSymlinks(path); err == nil {
			folders = append(folders, filepath.Dir(path))
		}
	}
	for _, pattern := range []string{
		"/usr/lib/postgresql/*/bin", "/usr/pgsql-*/bin",
		"/usr/local/opt/postgresql*/bin", "/opt/homebrew/opt/postgresql*/bin",
	} {
		found, _ := filepath.Glob(pattern)
		folders = append(folders, found...)
	}
	for _, folder := range folders {
		_, noInitdb := os.Stat(filepath.Join(folder, "initdb"))
		_, noPostgres := os.Stat(filepath.Join(folder, "postgres"))
		if noInitdb == nil && noPostgres == nil {
			return folder, true
		}
	}
	return "", false
}

// unprivileged is whom PostgreSQL runs as: it refuses root. Nil means the present user.
func unprivileged() (*syscall.Credential, error) {
	if os.Getuid() != 0 {
		return nil, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		account, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, err := strconv.ParseUint(account.Uid, 10, 32)
		if err != nil {
			return nil, err
		}
		gid, err := strconv.ParseUint(account.Gid, 10, 32)
		if err != nil {
			return nil, err
		}
		return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
	}
	return nil, fmt.Errorf("PostgreSQL does not run as root, and there is neither a user postgres nor nobody")
}

// sharedServer counts the users of the one server of this binary.
type sharedServer struct {
	mu     sync.Mutex
	users  int
	server *server
}

var shared sharedServer

func (s *sharedServer) acquire(start func() (*server, error)) (*server, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.server == nil {
		started, err := start()
		if err != nil {
			return nil, err
		}
		s.server = started
	}
	s.users++
	return s.server, nil
}

// hold counts a user without starting anything.
func (s *sharedServer) hold() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.users++
}

func (s *sharedServer) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.users--; s.users == 0 && s.server != nil {
		s.server.close()
		s.server = nil
	}
}

// Main is a TestMain that keeps the shared server from the first test that asks until the last test has ended:
//
//	func TestMain(m *testing.M) { testkit.Main(m) }
func Main(m *testing.M) { os.Exit(Services(m).Run()) }

// TestingM is the part of [testing.M] that runs the tests.
type TestingM interface{ Run() int }

// Services is what Main runs, for a TestMain with more to do:
//
//	func TestMain(m *testing.M) { goleak.VerifyTestMain(testkit.Services(m)) }
func Services(m TestingM) TestingM { return services{m} }

type services struct{ tests TestingM }

func (s services) Run() int {
	shared.hold()
	defer shared.release()
	return s.tests.Run()
}
