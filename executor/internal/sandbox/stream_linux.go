package sandbox

import (
	"errors"
	"fmt"
	"io"
	"os"
	goruntime "runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/crucible-eval/crucible/executor/internal/sandbox/wire"
)

var cores = goruntime.NumCPU()

// drainTimeout bounds the reading of what dead processes left in a pipe. It
// is only ever used up by a caller's writer that blocks.
const drainTimeout = 10 * time.Second

const chunk = 64 << 10

var chunks = sync.Pool{New: func() any { return new([chunk]byte) }}

// stream drains one pipe while the program writes to it, passes on as much as
// its limit allows, and counts all.
type stream struct {
	pipe     *os.File
	to       io.Writer
	limit    int64
	overflow func() // called once, at the first byte too many; nil: go on
	// held says that others than the program hold the pipe too, and close it
	// later: it is read up to what is there when the program has ended.
	held bool
	done chan struct{}

	// Belong to the goroutine until done is closed.
	total int64
	err   error
}

func startStream(pipe *os.File, held bool, to io.Writer, limit int64, overflow func()) *stream {
	s := &stream{pipe: pipe, held: held, to: to, limit: limit, overflow: overflow, done: make(chan struct{})}
	go s.drain()
	return s
}

// outputPipe returns our end of a pipe and the program's, which blocks.
func outputPipe() (*os.File, int, error) {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		return nil, -1, fmt.Errorf("pipe: %w", err)
	}
	// Our end only: the flag is not shared between the two.
	if err := unix.SetNonblock(p[0], true); err != nil {
		_, _ = unix.Close(p[0]), unix.Close(p[1])
		return nil, -1, fmt.Errorf("pipe: %w", err)
	}
	return os.NewFile(uintptr(p[0]), "output"), p[1], nil
}

func (s *stream) drain() {
	defer close(s.done)
	buf := chunks.Get().(*[chunk]byte)
	defer chunks.Put(buf)
	for {
		n, err := s.pipe.Read(buf[:])
		if n > 0 {
			s.take(buf[:n])
		}
		if s.held && errors.Is(err, os.ErrDeadlineExceeded) {
			s.err = s.rest(buf[:])
			return
		}
		if err != nil {
			if !errors.Is(err, io.EOF) {
				s.err = fmt.Errorf("read output: %w", err)
			}
			return
		}
	}
}

// rest takes what is in the pipe and does not wait for more.
func (s *stream) rest(buf []byte) error {
	raw, err := s.pipe.SyscallConn()
	if err != nil {
		return fmt.Errorf("read output: %w", err)
	}
	return raw.Control(func(fd uintptr) {
		for {
			n, err := unix.Read(int(fd), buf)
			if n > 0 {
				s.take(buf[:n])
			} else if err != unix.EINTR {
				return
			}
		}
	})
}

func (s *stream) take(b []byte) {
	room := max(s.limit-s.total, 0)
	before := s.total
	s.total += int64(len(b))
	if keep := b[:min(room, int64(len(b)))]; len(keep) > 0 && s.to != nil {
		if _, err := s.to.Write(keep); err != nil {
			s.to = nil
		}
	}
	if before <= s.limit && s.total > s.limit && s.overflow != nil {
		s.overflow()
	}
}

// finish waits for the end of the pipe.
func (s *stream) finish() error {
	patience := drainTimeout
	if s.held {
		patience = 0
	}
	_ = s.pipe.SetReadDeadline(time.Now().Add(patience))
	<-s.done
	_ = s.pipe.Close()
	return s.err
}

func (s *stream) result() (total int64, truncated bool) { return s.total, s.total > s.limit }

// stdio is the executor's side of a program's three pipes. They are the same
// whether or not there is input, so that a program cannot tell.
type stdio struct{ in, out, err *os.File }

// newStdio makes the pipes, and returns the ends for the program too, which
// the caller closes when it has sent them.
func newStdio() (*stdio, []int, error) {
	s := &stdio{}
	theirs := []int{-1, -1, -1}
	var err error
	if s.in, theirs[0], err = inputPipe(); err == nil {
		if s.out, theirs[1], err = outputPipe(); err == nil {
			s.err, theirs[2], err = outputPipe()
		}
	}
	if err != nil {
		wire.CloseAll(theirs)
		s.close()
		return nil, nil, err
	}
	return s, theirs, nil
}

// close is for pipes that are of no use any more.
func (s *stdio) close() {
	for _, f := range []*os.File{s.in, s.out, s.err} {
		if f != nil {
			_ = f.Close()
		}
	}
}

// inputPipe returns our end of a pipe and the program's.
func inputPipe() (*os.File, int, error) {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		return nil, -1, fmt.Errorf("stdin: %w", err)
	}
	if err := unix.SetNonblock(p[1], true); err != nil {
		_, _ = unix.Close(p[0]), unix.Close(p[1])
		return nil, -1, fmt.Errorf("stdin: %w", err)
	}
	return os.NewFile(uintptr(p[1]), "input"), p[0], nil
}

// feed ends when the input does, or with EPIPE when every reader is dead.
func feed(w *os.File, from io.Reader) {
	_, _ = io.Copy(w, from)
	_ = w.Close()
}
