//go:build !linux

package sandbox

import (
	"context"
	"fmt"
	"runtime"
)

// Open fails: boxes are made of Linux namespaces.
func Open(context.Context, Config) (Runtime, error) {
	return nil, fmt.Errorf("%w on %s: boxes need Linux; run the executor in a Linux virtual machine or container, "+
		"and point the worker at it", ErrUnsupported, runtime.GOOS)
}

// MaybeInit does nothing here.
func MaybeInit() {}
