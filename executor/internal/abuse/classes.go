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

// weak is why levels without namespaces make no promise, where a case does
// not say it itself.
var weak = map[Class]string{
	Processes: "without a pid namespace nothing makes the kernel end all processes at once",
	Signals:   "without a pid namespace a program sees and signals whatever has its user id",
	Memory:    "memory is sampled, and only what belongs to a process is seen",
	Output:    "without a pid namespace a process that left its group outlives the run",
	Files:     "without a mount namespace there is no quota",
	Host:      "without namespaces the host is there, and only its permissions keep a program out",
	Calls:     "without a user namespace the filter is all there is",
	Network:   "without a network namespace the host's addresses are there",
	Compilers: "a compiler is as confined as a program",
}
