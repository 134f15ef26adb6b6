package abuse

// Class is a kind of attack.
type Class string

// The classes, in the order of the page.
const (
	Processes Class = "Processes"
	Signals   Class = "Signals and scheduling"
	Memory    Class = "Memory"
	Output    Class = "Output"
	Files     Class = "Files"
	Host      Class = "The host"
	Calls     Class = "System calls"
	Network   Class = "Network"
	Compilers Class = "Compilers"
)

// Classes lists them.
func Classes() []Class {
	return []Class{Processes, Signals, Memory, Output, Files, Host, Calls, Network, Compilers}
}

// unsafe is why the level none makes no promise, where a case does not say
// anything else.
const unsafe = "nothing is between a program and the host there but limits"
