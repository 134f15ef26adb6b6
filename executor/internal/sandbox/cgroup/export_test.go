//go:build linux

package cgroup

// Reclaim is what Open does first.
var Reclaim = reclaim
