package sandbox

// Levels of isolation, from strong to weak.
const (
	LevelGVisor           = "gvisor"            // a kernel of its own, in user space
	LevelNamespaces       = "namespaces"        // namespaces and exact limits by cgroups
	LevelNamespacesRlimit = "namespaces-rlimit" // namespaces, limits approximated
	LevelLandlock         = "landlock"          // no namespaces: Landlock and seccomp, limits approximated
	LevelNone             = "none"              // nothing but limits; refused unless asked for as unsafe
)

// OneTree tells that boxes of a level have no file tree of their own: programs
// see host folders at their own paths, as far as they may see them, and a Bind
// at another path is an alias for arguments and variables only.
func OneTree(level string) bool { return level == LevelLandlock || level == LevelNone }

// State says how well a control holds.
type State string

// The states of a control.
const (
	Enforced     State = "enforced"     // the kernel does it, and the probe saw it
	Approximated State = "approximated" // done, with a margin that Detail tells
	Absent       State = "absent"
)

// Control is one thing that a box promises.
type Control struct {
	Name   string
	State  State
	Detail string // what was seen
	Remedy string // what to do about it; empty where nothing is to be done
}

// Isolation is what the boxes of this machine really give.
type Isolation struct {
	Level    string
	Controls []Control
}
