//go:build linux

package main

import (
	"bytes"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

var network = map[string]program{
	// Addresses outside, by every protocol: args are more of them, as in tcp 127.0.0.1:80.
	"egress": func(args []string) {
		targets := [][2]string{
			{"tcp", "192.0.2.1:80"}, {"tcp", "192.0.2.1:22"}, {"tcp", "169.254.169.254:80"}, {"tcp", "[2001:db8::1]:443"}, {"tcp", "[fe80::1%lo]:80"},
			{"tcp", "10.0.0.1:80"}, {"tcp", "172.17.0.1:2375"}, {"tcp", "192.168.0.1:80"}, {"tcp", "255.255.255.255:80"},
		}
		for i := 0; i+1 < len(args); i += 2 {
			targets = append(targets, [2]string{args[i], args[i+1]})
		}
		for _, to := range targets {
			c, err := net.DialTimeout(to[0], to[1], 300*time.Millisecond)
			if err == nil {
				breach("connected by %s to %s", to[0], to[1])
				_ = c.Close()
			}
		}
	},
	// Packets that nobody has to answer.
	"udp": func([]string) {
		for _, to := range []string{"192.0.2.1:53", "169.254.169.254:80", "[2001:db8::1]:53", "224.0.0.251:5353", "255.255.255.255:67"} {
			c, err := net.Dial("udp", to)
			if err != nil {
				continue
			}
			if raw, err := c.(*net.UDPConn).SyscallConn(); err == nil {
				_ = raw.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_BROADCAST, 1) })
			}
			if _, err := c.Write([]byte("x")); err == nil {
				breach("a packet was sent to %s", to)
			}
			_ = c.Close()
		}
	},
	"dns": func([]string) {
		r := net.Resolver{PreferGo: true}
		done := make(chan struct{})
		go func() {
			defer close(done)
			if addrs, err := r.LookupHost(deadline(500*time.Millisecond), "example.com"); err == nil {
				breach("example.com is %v", addrs)
			}
		}()
		<-done
	},
	// Kinds of sockets that reach past the network namespace, or into the kernel.
	"sockets": func([]string) {
		for name, s := range map[string][3]int{
			"raw":          {unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP},
			"raw IPv6":     {unix.AF_INET6, unix.SOCK_RAW, unix.IPPROTO_ICMPV6},
			"packet":       {unix.AF_PACKET, unix.SOCK_RAW, 0x300},
			"netlink":      {unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE},
			"audit":        {unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_AUDIT},
			"uevents":      {unix.AF_NETLINK, unix.SOCK_DGRAM, unix.NETLINK_KOBJECT_UEVENT},
			"vsock":        {unix.AF_VSOCK, unix.SOCK_STREAM, 0},
			"vsock, dgram": {unix.AF_VSOCK, unix.SOCK_DGRAM, 0},
			"crypto":       {unix.AF_ALG, unix.SOCK_SEQPACKET, 0},
			"bluetooth":    {unix.AF_BLUETOOTH, unix.SOCK_RAW, 1},
			"can":          {unix.AF_CAN, unix.SOCK_RAW, 1},
			"tipc":         {unix.AF_TIPC, unix.SOCK_RDM, 0},
			"x25":          {unix.AF_X25, unix.SOCK_SEQPACKET, 0},
			"xdp":          {unix.AF_XDP, unix.SOCK_RAW, 0},
			"smc":          {unix.AF_SMC, unix.SOCK_STREAM, 0},
			"rds":          {unix.AF_RDS, unix.SOCK_SEQPACKET, 0},
			"kcm":          {unix.AF_KCM, unix.SOCK_DGRAM, 0},
			"phonet":       {unix.AF_PHONET, unix.SOCK_DGRAM, 0},
			"key":          {unix.AF_KEY, unix.SOCK_RAW, 2},
		} {
			if fd, err := unix.Socket(s[0], s[1], s[2]); err == nil {
				breach("a socket: %s", name)
				_ = unix.Close(fd)
			}
			if fds, err := unix.Socketpair(s[0], s[1], s[2]); err == nil {
				breach("a pair of sockets: %s", name)
				_, _ = unix.Close(fds[0]), unix.Close(fds[1])
			}
		}
		if fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_ICMP); err == nil {
			if unix.Connect(fd, &unix.SockaddrInet4{Addr: [4]byte{192, 0, 2, 1}}) == nil {
				breach("ping")
			}
		}
	},
	// Sockets of the host with a name: abstract ones need no file. args[0] is one.
	"unix-sockets": func(args []string) {
		for _, name := range append([]string{"/var/run/docker.sock", "/run/docker.sock", "/run/containerd/containerd.sock", "/run/dbus/system_bus_socket", "/run/systemd/private", "/tmp/.X11-unix/X0"}, args...) {
			c, err := net.Dial("unix", name)
			if err == nil {
				breach("connected to %q", name)
				_ = c.Close()
			}
		}
		if b, err := os.ReadFile("/proc/net/unix"); err == nil {
			for _, name := range args {
				if len(name) > 1 && bytes.Contains(b, []byte(name[1:])) {
					breach("%q is listed", name)
				}
			}
		}
	},
	// The network of the box: no device but its own loopback, and no right to make one.
	"interfaces": func([]string) {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
		if err != nil {
			return
		}
		for _, name := range []string{"eth0", "ens3", "enp0s3", "docker0", "wlan0"} {
			ifr, _ := unix.NewIfreq(name)
			if unix.IoctlIfreq(fd, unix.SIOCGIFFLAGS, ifr) == nil {
				breach("interface %s", name)
			}
		}
		ifr, _ := unix.NewIfreq("lo")
		ifr.SetUint16(0)
		if unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr) == nil {
			breach("the loopback was changed")
		}
		if b, err := os.ReadFile("/proc/net/route"); err == nil {
			if bytes.Count(b, []byte("\n")) > 1 {
				breach("routes: %s", b)
			}
		}
	},
}
