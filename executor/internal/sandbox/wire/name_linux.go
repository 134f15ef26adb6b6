package wire

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// SetName gives this process a name for ps: it was started by the number of a
// descriptor. Names are at most 15 bytes.
func SetName(name string) {
	b := append([]byte(name), 0)
	_ = unix.Prctl(unix.PR_SET_NAME, uintptr(unsafe.Pointer(&b[0])), 0, 0, 0)
}
