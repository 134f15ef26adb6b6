package wire

import (
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// maxFDs is the most descriptors that travel with one message.
const maxFDs = 16

// Conn is one end of a packet socket. Send may be called by several
// goroutines; Recv by one at a time.
type Conn struct {
	fd   int             // used when blocking
	file *os.File        // used when polled
	raw  syscall.RawConn // of file
	buf  []byte
	oob  [256]byte
	send sync.Mutex
}

// Pair returns two connected descriptors, closed on exec.
func Pair() (a, b int, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, -1, fmt.Errorf("socketpair: %w", err)
	}
	return fds[0], fds[1], nil
}

// NewBlocking takes over fd and uses plain system calls: for processes whose
// only work is to wait for the next message.
func NewBlocking(fd int) *Conn { return &Conn{fd: fd, buf: make([]byte, MaxMessage)} }

// NewPolled takes over fd and waits in the Go runtime's poller.
func NewPolled(fd int, bufSize int) (*Conn, error) {
	if err := unix.SetNonblock(fd, true); err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "box-control")
	raw, err := f.SyscallConn()
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return &Conn{fd: -1, file: f, raw: raw, buf: make([]byte, bufSize)}, nil
}

// Close ends the connection; the other side reads io.EOF.
func (c *Conn) Close() error {
	if c.file != nil {
		return c.file.Close()
	}
	return unix.Close(c.fd)
}

// Send writes one message with descriptors, which stay open here.
func (c *Conn) Send(msg []byte, fds ...int) error {
	if len(msg) > MaxMessage {
		return fmt.Errorf("wire: message of %d bytes is larger than %d", len(msg), MaxMessage)
	}
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	c.send.Lock()
	defer c.send.Unlock()
	if c.file == nil {
		return ignoringEINTR(func() error { return unix.Sendmsg(c.fd, msg, rights, nil, unix.MSG_NOSIGNAL) })
	}
	var opErr error
	err := c.raw.Write(func(fd uintptr) bool {
		opErr = ignoringEINTR(func() error { return unix.Sendmsg(int(fd), msg, rights, nil, unix.MSG_NOSIGNAL) })
		return opErr != unix.EAGAIN
	})
	if err != nil {
		return err
	}
	return opErr
}

// Recv reads one message. The bytes are valid until the next call; the
// descriptors belong to the caller and are closed on exec. At the end of
// the connection the error is io.EOF.
func (c *Conn) Recv() (msg []byte, fds []int, err error) {
	var n, oobn, flags int
	recv := func(fd int) error {
		return ignoringEINTR(func() (err error) {
			n, oobn, flags, _, err = unix.Recvmsg(fd, c.buf, c.oob[:], unix.MSG_CMSG_CLOEXEC)
			return err
		})
	}
	if c.file == nil {
		err = recv(c.fd)
	} else {
		pollErr := c.raw.Read(func(fd uintptr) bool {
			err = recv(int(fd))
			return err != unix.EAGAIN
		})
		if pollErr != nil {
			return nil, nil, pollErr
		}
	}
	if err == unix.ECONNRESET {
		err = io.EOF
	}
	if err != nil {
		return nil, nil, err
	}
	if oobn > 0 {
		if fds, err = parseRights(c.oob[:oobn]); err != nil {
			return nil, nil, err
		}
	}
	if n == 0 && oobn == 0 {
		return nil, nil, io.EOF
	}
	if flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 {
		CloseAll(fds)
		return nil, nil, ErrMalformed
	}
	return c.buf[:n], fds, nil
}

func parseRights(oob []byte) ([]int, error) {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, err
	}
	var fds []int
	for i := range msgs {
		got, err := unix.ParseUnixRights(&msgs[i])
		if err != nil {
			continue
		}
		fds = append(fds, got...)
	}
	if len(fds) > maxFDs {
		CloseAll(fds)
		return nil, ErrMalformed
	}
	return fds, nil
}

// CloseAll closes every descriptor of a list.
func CloseAll(fds []int) {
	for _, fd := range fds {
		if fd >= 0 {
			_ = unix.Close(fd)
		}
	}
}

func ignoringEINTR(f func() error) error {
	for {
		if err := f(); err != unix.EINTR {
			return err
		}
	}
}

// Await waits until there is something to receive.
func (c *Conn) Await() error {
	return c.raw.Read(func(fd uintptr) bool {
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(poll, 0)
		return err != nil || n > 0
	})
}
