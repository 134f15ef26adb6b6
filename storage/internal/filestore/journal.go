package filestore

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/pkg/memory"
)

// What a store's folder holds.
const (
	recordsFolder = "records" // one file per evaluation, below a folder for its project
	keysFolder    = "keys"    // one file per idempotency key
	blobsFolder   = "blobs"   // one file per blob that was put, to find those that nothing refers to
	intentsFolder = "intents" // transactions of several files that are not done yet
	cursorFile    = "cursor"  // the last cursor that was given, where the event that has it is gone
	suffix        = ".json"
)

// journal writes transactions into files. One that touches a single file is
// that file, put in place by a rename. Any other is first written down whole as
// an intent, which is what commits it, and then carried out; what a crash or a
// full disk has interrupted is carried out before anything else happens.
type journal struct {
	folder string

	mu      sync.Mutex
	pending []pending
	intents int64
	closed  bool
}

// pending is a committed transaction that is not carried out yet.
type pending struct {
	path string
	t    memory.Transaction
}

var _ memory.Journal = (*journal)(nil)

// Commit implements [memory.Journal].
func (j *journal) Commit(_ context.Context, t memory.Transaction) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.closed {
		return &eval.Error{Kind: eval.KindUnavailable, Message: "the file store is closed"}
	}
	if err := j.finish(); err != nil {
		return refusal(err)
	}
	if len(t.Records) == 1 && len(t.Forgotten) == 0 && t.Idempotency == nil {
		return refusal(j.writeRecord(t.Records[0]))
	}
	j.intents++
	path := filepath.Join(j.folder, intentsFolder, fmt.Sprintf("%020d%s", j.intents, suffix))
	if err := replace(path, t); err != nil {
		return refusal(err)
	}
	j.pending = append(j.pending, pending{path, t})
	_ = j.finish() // it is committed: what fails now is tried again by the next one
	return nil
}

// finish carries out what is committed.
func (j *journal) finish() error {
	for len(j.pending) > 0 {
		if err := j.carryOut(j.pending[0].t); err != nil {
			return err
		}
		if err := os.Remove(j.pending[0].path); err != nil {
			return err
		}
		j.pending = j.pending[1:]
	}
	return nil
}

func (j *journal) carryOut(t memory.Transaction) error {
	for _, r := range t.Records {
		if err := j.writeRecord(r); err != nil {
			return err
		}
	}
	if k := t.Idempotency; k != nil {
		if err := replace(j.key(*k), k); err != nil {
			return err
		}
	}
	for _, b := range t.Blobs {
		if err := replace(j.blob(b.Digest), b); err != nil {
			return err
		}
	}
	if t.Cursor > 0 {
		if err := replace(filepath.Join(j.folder, cursorFile), t.Cursor); err != nil {
			return err
		}
	}
	var gone []string
	for _, key := range t.Forgotten {
		gone = append(gone, j.record(key))
	}
	for _, k := range t.ForgottenKeys {
		gone = append(gone, j.key(k))
	}
	for _, digest := range t.ForgottenBlobs {
		gone = append(gone, j.blob(digest))
	}
	for _, path := range gone {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

func (j *journal) key(k memory.Idempotency) string {
	name := safe(k.Project) + "." + safe(k.Key)
	if k.Client != "" {
		name += "." + safe(k.Client)
	}
	return filepath.Join(j.folder, keysFolder, name+suffix)
}

func (j *journal) blob(digest string) string {
	return filepath.Join(j.folder, blobsFolder, safe(digest)+suffix)
}

func (j *journal) record(key eval.Key) string {
	return filepath.Join(j.folder, recordsFolder, safe(key.Project), safe(string(key.ID))+suffix)
}

func (j *journal) writeRecord(r memory.Record) error {
	path := j.record(r.Evaluation.Key)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	return replace(path, r)
}

func (j *journal) close() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.closed = true
	return j.finish()
}

// recover carries out the intents that an earlier process has left.
func (j *journal) recover() error {
	return j.each(intentsFolder, func(path string, raw []byte) error {
		var t memory.Transaction
		if err := json.Unmarshal(raw, &t); err != nil {
			return err
		}
		if err := j.carryOut(t); err != nil {
			return err
		}
		return os.Remove(path)
	})
}

// load reads all that is kept. What is forgotten by its age is left to the sweep.
func (j *journal) load() (all memory.Snapshot, err error) {
	err = errors.Join(
		readAll(j, recordsFolder, &all.Records), readAll(j, keysFolder, &all.Keys), readAll(j, blobsFolder, &all.Blobs))
	if err != nil {
		return all, err
	}
	path := filepath.Join(j.folder, cursorFile)
	raw, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return all, nil
	}
	if err == nil {
		err = json.Unmarshal(raw, &all.Cursor)
	}
	if err != nil {
		return all, fmt.Errorf("the file %s cannot be read; repair it, or move it away: %w", path, err)
	}
	return all, nil
}

func readAll[T any](j *journal, folder string, into *[]T) error {
	return j.each(folder, func(_ string, raw []byte) error {
		var v T
		if err := json.Unmarshal(raw, &v); err != nil {
			return err
		}
		*into = append(*into, v)
		return nil
	})
}

// each calls fn for every file below a folder, by name. Files that a crash has
// left half-written are removed: they have never counted.
func (j *journal) each(folder string, fn func(path string, raw []byte) error) error {
	var paths []string
	err := filepath.WalkDir(filepath.Join(j.folder, folder), func(path string, d os.DirEntry, err error) error {
		switch {
		case err != nil || d.IsDir():
			return err
		case strings.HasSuffix(path, suffix):
			paths = append(paths, path)
			return nil
		default:
			return os.Remove(path)
		}
	})
	if err != nil {
		return fmt.Errorf("read the data folder: %w", err)
	}
	slices.Sort(paths)
	for _, path := range paths {
		raw, err := os.ReadFile(path)
		if err == nil {
			err = fn(path, raw)
		}
		if err != nil {
			return fmt.Errorf("the file %s cannot be read; repair it, or move it away: %w", path, err)
		}
	}
	return nil
}

// safe makes a file name of any text: itself where it can be nothing but a
// name, else its hash. The true text stands in the file.
func safe(s string) string {
	if len(s) <= 64 && s != "" && strings.Trim(s, "0123456789abcdefghijklmnopqrstuvwxyz-") == "" && s[0] != '-' {
		return s
	}
	sum := sha256.Sum256([]byte(s))
	return "_" + hex.EncodeToString(sum[:])
}

// replace puts v in place of what path holds, on the disk, or changes nothing.
func replace(path string, v any) (err error) {
	raw, err := json.Marshal(v)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), "new-")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	_, err = f.Write(raw)
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// refusal is the error of a transaction that was not written.
func refusal(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return &eval.Error{Kind: eval.KindUnavailable, RetryAfter: 30 * time.Second, Err: err,
			Message: "the disk of the data folder is full; nothing was written: make room there"}
	default:
		return &eval.Error{Kind: eval.KindUnavailable, RetryAfter: 30 * time.Second, Err: err,
			Message: "the data folder cannot be written; nothing was changed: check it"}
	}
}
