package eval

import "slices"

// Warm says how far an executor may go to spare a run the start of its
// interpreter. What a program sees and may do is the same in each.
type Warm string

const (
	WarmOff      Warm = "off"      // a program starts its own interpreter
	WarmPrestart Warm = "prestart" // an interpreter, used once, was started before the program was known
	WarmFork     Warm = "fork"     // it is a copy of one that was started before, for runs of the same client
)

// WarmModes lists the modes, each going further than the one before.
func WarmModes() []Warm { return []Warm{WarmOff, WarmPrestart, WarmFork} }

// Allows reports whether mode goes no further than w.
func (w Warm) Allows(mode Warm) bool {
	return slices.Index(WarmModes(), mode) <= slices.Index(WarmModes(), w)
}

// Start says how the process of a run came about.
type Start string

const (
	StartCold     Start = "cold"     // in a box that was made for it
	StartBox      Start = "box"      // in a box that was ready
	StartPrestart Start = "prestart" // an interpreter waited for it
	StartFork     Start = "fork"     // it was forked from an interpreter
)
