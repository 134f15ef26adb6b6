package testkit

import (
	"errors"
	"fmt"
	"syscall"
	"time"
)

// server is what Redis and PostgreSQL have in common: a folder, a port and at most one process.
type server struct {
	name       string
	folder     *folder
	credential *syscall.Credential
	port       int
	process    *process

	argv     func(port int) []string
	ping     func(port int) error // nil: it answers as it should
	stopWith syscall.Signal       // ends it in good order
	dropWith syscall.Signal       // ends it at once, when its data is of no more use
}

// errExited says that a server ended by itself while it was waited for.
var errExited = errors.New("it exited")

// launch starts the server on a port of its own. Another program may be quicker to take the port, hence the tries.
func (s *server) launch() error {
	var err error
	for range 5 {
		if s.port, err = freePort(); err != nil {
			return err
		}
		if err = s.start(); !errors.Is(err, errExited) {
			return err
		}
	}
	return err
}

// start starts the server on its port, and returns when it answers.
func (s *server) start() error {
	if s.process != nil && s.process.alive() {
		return nil
	}
	log := s.folder.join("log")
	process, err := startProcess(s.argv(s.port), s.folder.path, log, s.credential)
	if err != nil {
		return fmt.Errorf("start %s: %w", s.name, err)
	}
	s.process = process
	if !poll(patience, process.done, func() bool { err = s.ping(s.port); return err == nil }) {
		if !process.alive() {
			err = errExited
		}
		process.kill()
		return fmt.Errorf("%s did not get ready: %w; the end of its log:\n%s", s.name, err, tail(log))
	}
	return nil
}

func (s *server) stop() error { return s.process.stop(s.stopWith, patience) }

// close ends the server and removes what it wrote.
func (s *server) close() {
	if s.process != nil {
		_ = s.process.stop(s.dropWith, 10*time.Second)
	}
	s.folder.remove()
}
