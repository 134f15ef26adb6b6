package testkit

import (
	"bufio"
	"fmt"
	"net"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// RedisServer is a private redis-server. Its methods fail the test when they cannot do their work, so they are
// called from the test's own goroutine.
type RedisServer struct {
	*faults
	Addr string // host:port
	URL  string // redis://host:port/0
}

// Redis starts a redis-server that ends with the test. It keeps nothing on disk, so that a stopped and started one
// is empty, unless [WithAOF] is given.
func Redis(t testing.TB, options ...Option) *RedisServer {
	t.Helper()
	binary, err := exec.LookPath("redis-server")
	if err != nil {
		Skip(t, "redis-server", "redis-server")
	}
	dir, err := newFolder(nil)
	if err != nil {
		t.Fatal(err)
	}
	chosen := choose(options)
	server := &server{
		name:   "redis-server",
		folder: dir,
		argv: func(port int) []string {
			argv := []string{
				binary, "--port", strconv.Itoa(port), "--bind", "127.0.0.1", "--dir", dir.path, "--daemonize", "no",
				"--save", "", "--appendonly", yesNo(chosen.aof), "--maxmemory-policy", "noeviction",
			}
			for _, setting := range chosen.settings {
				argv = append(argv, "--"+setting.name, setting.value)
			}
			return argv
		},
		ping:     pingRedis,
		stopWith: syscall.SIGTERM,
		dropWith: syscall.SIGKILL,
	}
	t.Cleanup(server.close)
	if err := server.launch(); err != nil {
		t.Fatal(err)
	}
	addr := "127.0.0.1:" + strconv.Itoa(server.port)
	return &RedisServer{faults: &faults{t: t, server: server}, Addr: addr, URL: "redis://" + addr + "/0"}
}

func pingRedis(port int) error {
	conn, err := net.DialTimeout("tcp", "127.0.0.1:"+strconv.Itoa(port), time.Second)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(time.Second))
	if _, err := conn.Write([]byte("PING\r\n")); err != nil {
		return err
	}
	answer, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		return err
	}
	// A server with a password answers too, and is ready.
	if answer = strings.TrimSpace(answer); answer != "+PONG" && !strings.HasPrefix(answer, "-NOAUTH") {
		return fmt.Errorf("PING was answered with %q", answer)
	}
	return nil
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}
