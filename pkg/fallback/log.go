package fallback

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/crucible-eval/crucible/pkg/eval"
)

// What the journal's folder holds, besides lines that could not be read:
// damaged-<time>.log.
const (
	logName  = "journal.log"
	lockName = "lock"
)

// file is the journal on disk: a line for each entry, its checksum and then
// its JSON, so that a person can read and repair it, and so that one line that
// is damaged takes no other with it. A line counts once it is synced.
type file struct {
	folder string
	lock   *os.File
	f      *os.File
	size   int64 // of the lines that count
	torn   error // why the end of the file could not be put in order after a failed write
}

// span is where a line stands in the file.
type span struct{ at, size int64 }

// damage is what openFile found that is no line, and where it is kept.
type damage struct {
	bytes int64
	lines int
	path  string
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// line is raw as it stands in the file. JSON has no line breaks.
func line(raw []byte) []byte {
	return fmt.Appendf(make([]byte, 0, len(raw)+10), "%08x %s\n", crc32.Checksum(raw, castagnoli), raw)
}

// parse returns the JSON of a line, with its line break; ok is false when it
// is not what line made.
func parse(l []byte) (raw []byte, ok bool) {
	if len(l) < 10 || l[8] != ' ' || l[len(l)-1] != '\n' {
		return nil, false
	}
	raw = l[9 : len(l)-1]
	sum, err := strconv.ParseUint(string(l[:8]), 16, 32)
	return raw, err == nil && uint32(sum) == crc32.Checksum(raw, castagnoli)
}

// openFile opens the journal in a folder, made when missing, and calls each
// for every line in it. What is no line, or what each refuses, is moved aside:
// a crash in mid-write leaves such an end, a broken disk may do worse.
// KindConflict: another process has it open.
func openFile(folder string, each func(raw []byte, at span) error) (_ *file, found damage, err error) {
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return nil, found, fmt.Errorf("the folder of the fallback journal cannot be made: %w", err)
	}
	j := &file{folder: folder}
	defer func() {
		if err != nil {
			err = errors.Join(err, j.close())
		}
	}()
	if j.lock, err = os.OpenFile(filepath.Join(folder, lockName), os.O_CREATE|os.O_RDWR, 0o600); err != nil {
		return nil, found, fmt.Errorf("the fallback journal cannot be locked: %w", err)
	}
	if err := syscall.Flock(int(j.lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, found, eval.Errorf(eval.KindConflict, "another process uses the fallback journal in %s; give each one a folder of its own: %w", folder, err)
	}
	if j.f, err = os.OpenFile(filepath.Join(folder, logName), os.O_CREATE|os.O_RDWR, 0o600); err != nil {
		return nil, found, fmt.Errorf("the fallback journal cannot be opened: %w", err)
	}
	if err := syncFolder(folder); err != nil {
		return nil, found, err
	}
	var good []span
	var bad bytes.Buffer
	r := bufio.NewReaderSize(j.f, 1<<20)
	for {
		l, err := r.ReadBytes('\n')
		if len(l) > 0 {
			at := span{j.size, int64(len(l))}
			j.size += at.size
			raw, ok := parse(l)
			if ok && each(raw, span{total(good), at.size}) == nil {
				good = append(good, at)
			} else {
				bad.Write(l)
				found.lines++
			}
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, found, fmt.Errorf("the fallback journal cannot be read: %w", err)
		}
	}
	if bad.Len() == 0 {
		return j, found, nil
	}
	found.bytes = int64(bad.Len())
	found.path = filepath.Join(folder, "damaged-"+time.Now().UTC().Format("20060102T150405.000000000")+".log")
	// First they are safe aside, then they go from the journal.
	aside, err := place(found.path, &bad)
	if aside != nil {
		err = errors.Join(err, aside.Close())
	}
	if err != nil {
		return nil, found, fmt.Errorf("%d bytes of the fallback journal are damaged and cannot be put aside: %w", found.bytes, err)
	}
	return j, found, j.keep(good)
}

func total(spans []span) (n int64) {
	for _, s := range spans {
		n += s.size
	}
	return n
}

// append adds a line and returns once it is on the disk. After an error
// nothing was added, as far as the disk obeys.
func (j *file) append(raw []byte) (span, error) {
	if j.torn != nil {
		if err := j.mend(); err != nil {
			return span{}, err
		}
	}
	l := line(raw)
	at := span{j.size, int64(len(l))}
	_, err := j.f.WriteAt(l, at.at)
	if err == nil {
		err = j.f.Sync()
	}
	if err != nil {
		j.torn = err
		_ = j.mend() // tried again before the next line
		return span{}, err
	}
	j.size += at.size
	return at, nil
}

// mend takes off what a failed write has left behind the last line.
func (j *file) mend() error {
	err := errors.Join(j.f.Truncate(j.size), j.f.Sync(), syncFolder(j.folder))
	if err == nil {
		j.torn = nil
	}
	return err
}

// keep makes the file hold these of its lines and no others, all at once.
func (j *file) keep(lines []span) error {
	if len(lines) == 0 { // needs no room, and so no second file
		if err := j.f.Truncate(0); err != nil {
			return err
		}
		j.size, j.torn = 0, j.f.Sync()
		return j.torn
	}
	parts := make([]io.Reader, len(lines))
	for i, l := range lines {
		parts[i] = io.NewSectionReader(j.f, l.at, l.size)
	}
	next, err := place(filepath.Join(j.folder, logName), io.MultiReader(parts...))
	if next != nil { // it is the journal now
		_ = j.f.Close()
		j.f, j.size, j.torn = next, total(lines), err
	}
	return err
}

func (j *file) close() error {
	var errs []error
	for _, f := range []*os.File{j.f, j.lock} {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	return errors.Join(errs...)
}

// place puts content in place of what path holds and returns it open, or
// changes nothing. With an error and a file, it is in place, but a power cut
// may bring back what was there.
func place(path string, content io.Reader) (_ *os.File, err error) {
	next := path + ".new"
	f, err := os.OpenFile(next, os.O_CREATE|os.O_RDWR|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	_, err = io.Copy(f, content)
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = os.Rename(next, path)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close(), os.Remove(next))
	}
	return f, syncFolder(filepath.Dir(path))
}

func syncFolder(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
