//go:build !linux

package sandbox

import (
	"context"
	"fmt"
	"runtime"
)

// Open fails: boxes are made of Linux namespaces.
func Open(context.Context, Config) (Runtime, error) {
	return nil, errNotLinux()
}

func errNotLinux() error {
	return fmt.Errorf("%w on %s: boxes of every level need Linux; run the executor in a Linux virtual machine or container, "+
		"and point the worker at it", ErrUnsupported, runtime.GOOS)
}

// Offer is a level, and what speaks against it on this machine.
type Offer struct {
	Level   string
	Problem error
}

// Survey finds none.
func Survey(context.Context, Config) []Offer { return []Offer{{LevelNamespaces, errNotLinux()}} }

// MaybeInit does nothing here.
func MaybeInit() {}
