package sandbox

import (
	"fmt"
	"strings"
)

// Bounds of a path in a workspace.
const (
	MaxPathBytes = 1024
	MaxPathDepth = 32
	MaxNameBytes = 255
)

// ValidatePath accepts paths of files in a workspace: relative, with slashes,
// already clean (no empty, "." or ".." element), without NUL, at most
// MaxPathBytes long and MaxPathDepth deep. Every other byte is allowed, as
// file systems do. The error wraps ErrPath.
func ValidatePath(path string) error {
	switch {
	case path == "":
		return fmt.Errorf("%w: empty", ErrPath)
	case len(path) > MaxPathBytes:
		return fmt.Errorf("%w: %d bytes, at most %d are allowed", ErrPath, len(path), MaxPathBytes)
	case path[0] == '/':
		return fmt.Errorf("%w: %q is not relative", ErrPath, path)
	case strings.IndexByte(path, 0) >= 0:
		return fmt.Errorf("%w: %q holds a NUL byte", ErrPath, path)
	}
	depth := 0
	for name := range strings.SplitSeq(path, "/") {
		depth++
		switch {
		case name == "" || name == "." || name == "..":
			return fmt.Errorf("%w: %q has the element %q", ErrPath, path, name)
		case len(name) > MaxNameBytes:
			return fmt.Errorf("%w: a name of %d bytes, at most %d are allowed", ErrPath, len(name), MaxNameBytes)
		case depth > MaxPathDepth:
			return fmt.Errorf("%w: deeper than %d folders", ErrPath, MaxPathDepth)
		}
	}
	return nil
}
