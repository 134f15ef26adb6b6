package sandbox

import (
	"errors"
	"fmt"
)

var (
	// ErrUnsupported says that this machine cannot make boxes, and why. Nothing
	// weaker is done instead.
	ErrUnsupported = errors.New("no sandbox")
	// ErrPlatform says that a box failed, not the program in it. Running again
	// in a new box is safe and may succeed.
	ErrPlatform = errors.New("sandbox failed")
	// ErrCommand says that a command or a spec can never be run: empty, too
	// large, or with a NUL byte in it.
	ErrCommand = errors.New("invalid command")
	// ErrUsed is a second Run of a box, or a Run after Close.
	ErrUsed = errors.New("box was already used")
	// ErrClosed is the use of a closed runtime or workspace.
	ErrClosed = errors.New("sandbox is closed")
	// ErrBusy is host access to a workspace in which a box runs.
	ErrBusy = errors.New("workspace is in use by a box")
	// ErrPath is a path that no workspace accepts.
	ErrPath = errors.New("invalid path")
	// ErrNotRegular is a path that is there, but leads over a link, or to
	// something other than a regular file.
	ErrNotRegular = errors.New("not a regular file")
)

// platform marks an error as ours.
func platform(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%w: %s: %w", ErrPlatform, what, err)
}
