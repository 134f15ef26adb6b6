//go:build linux

package cgroup

import (
	"path"
	"slices"
	"strings"
)

// Place is where the groups of this process are mounted.
type Place struct {
	Controllers map[string]string // version 1: controller to folder
	Unified     string            // version 2: folder, empty where not mounted
}

// needed are the controllers without which limits are not exact.
var needed = []string{"memory", "pids", "cpuacct"}

// v1 returns the folders of the needed controllers, without doubles, if all
// are there.
func (p Place) v1() (map[string]string, bool) {
	dirs := map[string]string{}
	for _, c := range needed {
		dir, ok := p.Controllers[c]
		if !ok {
			return nil, false
		}
		dirs[c] = dir
	}
	return dirs, true
}

// Locate reads the texts of /proc/self/cgroup and /proc/self/mountinfo. In a
// container the first may name a path outside of what is mounted: the root of
// the mount is taken then.
func Locate(own, mountinfo string) Place {
	place := Place{Controllers: map[string]string{}}
	paths := map[string]string{} // controller, or "" for the unified one
	for line := range strings.Lines(own) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) != 3 {
			continue
		}
		for c := range strings.SplitSeq(parts[1], ",") {
			paths[c] = parts[2]
		}
	}
	for line := range strings.Lines(mountinfo) {
		before, after, ok := strings.Cut(strings.TrimSpace(line), " - ")
		left, right := strings.Fields(before), strings.Fields(after)
		if !ok || len(left) < 5 || len(right) < 3 {
			continue
		}
		root, mount := left[3], left[4]
		switch right[0] {
		case "cgroup":
			for option := range strings.SplitSeq(right[2], ",") {
				if p, ok := paths[option]; ok && slices.Contains(needed, option) {
					place.Controllers[option] = below(mount, root, p)
				}
			}
		case "cgroup2":
			if p, ok := paths[""]; ok && place.Unified == "" {
				place.Unified = below(mount, root, p)
			}
		}
	}
	return place
}

func below(mount, root, own string) string {
	rel, ok := strings.CutPrefix(own, strings.TrimSuffix(root, "/"))
	if !ok || (rel != "" && rel[0] != '/') {
		return mount
	}
	return path.Join(mount, path.Clean("/"+rel))
}
