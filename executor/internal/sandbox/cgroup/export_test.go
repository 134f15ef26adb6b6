//go:build linux

package cgroup

import "os"

// Reclaim is what Open does first.
var Reclaim = reclaim

// Delegate is what OpenV2 does to the group in which it runs.
var Delegate = delegate

// SelfName is the group into which it moves what lives there.
const SelfName = selfName

// NewV2 makes the group of a box in a folder.
func NewV2(dir string, mkdir func(string, os.FileMode) error) (Group, error) {
	return (&v2Tree{dir: dir, mkdir: mkdir}).New()
}
