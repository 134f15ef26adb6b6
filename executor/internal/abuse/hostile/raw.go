//go:build linux

package main

import (
	"syscall"
	"unsafe"
)

// pointer is the address of a value for call. Through escaped the value is
// on the heap, where nothing moves it.
func pointer[T any](v *T) uintptr {
	escaped = v
	return uintptr(unsafe.Pointer(v))
}

//lint:ignore U1000 that something is assigned to it is its purpose
var escaped any

// text is the address of a string that ends in NUL.
func text(s string) uintptr {
	p, err := syscall.BytePtrFromString(s)
	if err != nil {
		panic(err)
	}
	texts = append(texts, p)
	return uintptr(unsafe.Pointer(p))
}

var texts []*byte
