// Package filestore keeps evaluations in files: one JSON file each, with its
// history, so that a person can read, copy and repair them. It is the store of
// package memory with a journal that writes files, for one process at a time.
package filestore

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/pkg/memory"
)

// Store is an [eval.Store] in files.
type Store struct {
	*memory.Store
	journal *journal
	lock    *os.File

	closeOnce sync.Once
	closeErr  error
}

var _ eval.Store = (*Store)(nil)

// Open opens the store in a folder, made when missing, and reads all of it.
// KindConflict: another process has it open.
func Open(folder string, o memory.Options) (*Store, error) {
	for _, name := range []string{recordsFolder, keysFolder, blobsFolder, intentsFolder} {
		if err := os.MkdirAll(filepath.Join(folder, name), 0o700); err != nil {
			return nil, fmt.Errorf("the data folder cannot be made: %w", err)
		}
	}
	lock, err := os.OpenFile(filepath.Join(folder, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("the data folder cannot be locked: %w", err)
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = lock.Close()
		return nil, eval.Errorf(eval.KindConflict, "another process uses the folder %s; stop it, or use a database: %w", folder, err)
	}
	j := &journal{folder: folder}
	if err := j.recover(); err != nil {
		_ = lock.Close()
		return nil, err
	}
	kept, err := j.load()
	if err != nil {
		_ = lock.Close()
		return nil, err
	}
	o.Journal = j
	s := &Store{Store: memory.NewStore(o), journal: j, lock: lock}
	s.Restore(kept)
	return s, nil
}

// Close lets another process open the folder. Changes asked for afterwards
// are refused with KindUnavailable.
func (s *Store) Close() error {
	s.closeOnce.Do(func() { s.closeErr = errors.Join(s.journal.close(), s.lock.Close()) })
	return s.closeErr
}
