package launcher

import (
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"
)

// networksReady is how many network namespaces wait for a box. Making one
// takes half a millisecond, which a box does not have to wait for.
const networksReady = 4

// networks makes network namespaces ahead of time. Each is used by one box
// and then gone: a second box would meet the connections of the first.
//
// They belong to the launcher's user namespace, so that a box cannot change
// its own network even with capabilities.
type networks struct {
	ready chan network
}

type network struct {
	fd  int
	err error
}

// newNetworks starts the thread that makes them, for as long as the process
// lives.
func newNetworks() *networks {
	n := &networks{ready: make(chan network, networksReady)}
	go func() {
		runtime.LockOSThread()
		for {
			fd, err := makeNetwork()
			n.ready <- network{fd, err}
		}
	}()
	return n
}

func makeNetwork() (int, error) {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return -1, fmt.Errorf("network namespace: %w", err)
	}
	if err := loopbackUp(); err != nil {
		return -1, err
	}
	return openNetwork()
}

// openNetwork returns a descriptor of the calling thread's network namespace.
func openNetwork() (int, error) {
	fd, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("network namespace: %w", err)
	}
	return fd, nil
}

// enter moves the calling thread into a fresh namespace.
func (n *networks) enter() error {
	next := <-n.ready
	if next.err != nil {
		return next.err
	}
	defer func() { _ = unix.Close(next.fd) }()
	if err := unix.Setns(next.fd, unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter network namespace: %w", err)
	}
	return nil
}

// loopbackUp gives the namespace its own 127.0.0.1, which leads nowhere else.
func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("loopback: %w", err)
	}
	defer func() { _ = unix.Close(fd) }()
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		return fmt.Errorf("loopback: %w", err)
	}
	ifr.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr); err != nil {
		return fmt.Errorf("loopback: %w", err)
	}
	return nil
}
