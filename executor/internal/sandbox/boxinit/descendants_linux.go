package boxinit

import (
	"os"
	"strconv"
	"strings"
	"sync"
)

// descendants are the processes below this one. Some may be gone by the time
// they are looked at, and some be missing that are just being made.
func descendants() []int {
	list := children(os.Getpid())
	for n := 0; n < len(list); n++ {
		list = append(list, children(list[n])...)
	}
	return list
}

// listsChildren tells whether the kernel does (CONFIG_PROC_CHILDREN).
var listsChildren = sync.OnceValue(func() bool {
	self := strconv.Itoa(os.Getpid())
	_, err := os.Stat("/proc/self/task/" + self + "/children")
	return err == nil
})

// children reads what the kernel lists for each thread, which costs the same
// on a machine with any number of processes. Where it does not, every process
// is asked for its parent.
func children(pid int) []int {
	if !listsChildren() {
		return parented(pid)
	}
	tasks := "/proc/" + strconv.Itoa(pid) + "/task"
	var list []int
	for _, tid := range numbered(tasks) {
		text, _ := os.ReadFile(tasks + "/" + strconv.Itoa(tid) + "/children")
		for field := range strings.FieldsSeq(string(text)) {
			list = append(list, int(number(field)))
		}
	}
	return list
}

func parented(parent int) []int {
	var list []int
	for _, pid := range numbered("/proc") {
		if f := statOf(pid); len(f) > 1 && int(number(f[1])) == parent {
			list = append(list, pid)
		}
	}
	return list
}

// numbered are the names in a folder of /proc that are numbers.
func numbered(dir string) []int {
	f, err := os.Open(dir)
	if err != nil {
		return nil
	}
	names, _ := f.Readdirnames(-1)
	_ = f.Close()
	var list []int
	for _, name := range names {
		if n, err := strconv.Atoi(name); err == nil {
			list = append(list, n)
		}
	}
	return list
}

// statOf returns the fields of a process's stat from the state on, or none.
// The name before it may hold anything, parentheses too.
func statOf(pid int) []string {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return nil
	}
	return strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
}

// tasksOfUser counts the processes and threads that a user has now.
func tasksOfUser(uid uint32) uint64 {
	var n uint64
	for _, pid := range numbered("/proc") {
		status, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
		if err != nil {
			continue
		}
		var owner, threads int64
		for line := range strings.Lines(string(status)) {
			if f := strings.Fields(line); len(f) > 1 {
				switch f[0] {
				case "Uid:":
					owner = number(f[1])
				case "Threads:":
					threads = number(f[1])
				}
			}
		}
		if owner == int64(uid) {
			n += uint64(threads)
		}
	}
	return n
}
