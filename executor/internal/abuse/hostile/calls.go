//go:build linux

package main

import (
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

var calls = map[string]program{
	// Calls that must be refused whatever their arguments.
	"forbidden-calls": func([]string) {
		for name, a := range forbidden() {
			_, e := call(a[0], a[1:]...)
			switch {
			case e == syscall.EPERM || e == syscall.ENOSYS || e == syscall.EACCES:
			case e == syscall.EINVAL && (name == "setuid" || name == "setgroups"): // no such id here
			default:
				breach("%s: %v (%d)", name, e, e)
			}
		}
	},
	// New namespaces, and the escapes that begin with one.
	"namespaces": func([]string) {
		for _, flag := range []uintptr{unix.CLONE_NEWUSER, unix.CLONE_NEWNS, unix.CLONE_NEWPID, unix.CLONE_NEWNET, unix.CLONE_NEWIPC, unix.CLONE_NEWUTS, unix.CLONE_NEWCGROUP, unix.CLONE_NEWTIME} {
			if _, e := call(unix.SYS_UNSHARE, flag); e == 0 {
				breach("unshare %#x", flag)
			}
			if flag == unix.CLONE_NEWTIME {
				continue // a signal number in clone
			}
			pid, e := fork(flag)
			if pid == 0 && e == 0 {
				exit(0)
			}
			if e == 0 {
				breach("clone %#x", flag)
			}
		}
		for _, dir := range []string{home, temporary, "/", "."} {
			refused("chroot "+dir, unix.Chroot(dir))
			refused("pivot_root "+dir, unix.PivotRoot(dir, dir))
			refused("bind "+dir, unix.Mount(dir, "/tmp", "", unix.MS_BIND, ""))
			refused("remount "+dir, unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_BIND, ""))
			refused("umount "+dir, unix.Unmount(dir, unix.MNT_DETACH))
		}
	},
	// The doors that a list of 64-bit numbers forgets: the 32-bit interrupt, and x32.
	"other-abis": func([]string) {
		if runtime.GOARCH != "amd64" {
			return
		}
		for _, nr := range []uintptr{unix.SYS_GETPID, unix.SYS_PTRACE, 101} {
			if _, e := call(0x40000000|nr, 0); e != syscall.ENOSYS && e != syscall.EPERM {
				breach("x32 call %d: %v", nr, e)
			}
		}
		// A child, because a sandbox may also kill for it.
		pid, _ := fork(0)
		if pid == 0 {
			exit(uintptr(int80()))
		}
		var status syscall.WaitStatus
		_, _ = syscall.Wait4(pid, &status, 0, nil)
		if status.Exited() && status.ExitStatus() != 0 {
			breach("int 0x80 answered")
		}
	},
	// A filter of one's own, and other ways to change the rules.
	"filter-games": func([]string) {
		for name, a := range map[string][]uintptr{
			"strict mode":        {unix.SYS_SECCOMP, 0, 0, 0},
			"listener":           {unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_NEW_LISTENER, 0},
			"prctl":              {unix.SYS_PRCTL, unix.PR_SET_SECCOMP, 1, 0},
			"prctl, high bits":   {unix.SYS_PRCTL, 1<<32 | unix.PR_SET_SECCOMP, 1, 0},
			"memory map":         {unix.SYS_PRCTL, unix.PR_SET_MM, unix.PR_SET_MM_EXE_FILE, 0, 0, 0},
			"bounding set":       {unix.SYS_PRCTL, unix.PR_CAPBSET_READ + 1, 64, 0},
			"securebits":         {unix.SYS_PRCTL, unix.PR_SET_SECUREBITS, 0, 0},
			"ambient capability": {unix.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, 0, 0},
			"new privileges":     {unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 0, 0, 0, 0},
			"personality":        {unix.SYS_PERSONALITY, 0x0400000},
			"i/o permission":     {unix.SYS_PRCTL, 0x53564d41 + 1, 0},
		} {
			if _, e := call(a[0], a[1:]...); e == 0 {
				breach("%s", name)
			}
		}
		caps := [2]uint32{unix.LINUX_CAPABILITY_VERSION_3, 0}
		all := [6]uint32{^uint32(0), ^uint32(0), ^uint32(0), ^uint32(0), ^uint32(0), ^uint32(0)}
		if _, e := call(unix.SYS_CAPSET, pointer(&caps), pointer(&all)); e == 0 {
			breach("capabilities")
		}
		status, _ := os.ReadFile("/proc/self/status")
		_ = status
	},
	// Cheap calls that make the kernel work: other cores, other threads, entropy.
	"storms": func([]string) {
		end := time.Now().Add(100 * time.Millisecond)
		b := make([]byte, 1<<16)
		var area [8]uint64 // the kernel writes to it
		for time.Now().Before(end) {
			for _, cmd := range []uintptr{1, 2, 8, 16, 32, 64, 128} {
				_, _ = call(unix.SYS_MEMBARRIER, cmd, 0, 0)
			}
			_, _ = unix.Getrandom(b, 0)
			_, _ = call(unix.SYS_RSEQ, pointer(&area), 32, 0, 0)
			_, _ = call(unix.SYS_SCHED_YIELD)
			var set unix.CPUSet
			set.Set(0)
			_ = unix.SchedSetaffinity(0, &set)
			unix.Sync()
			_, _ = call(unix.SYS_FUTEX, pointer(&b[0]), 1, 1<<30, 0, 0, 0)
		}
	},
	// Calls by chance, with what a kernel has to check: numbers, pointers into
	// nowhere, descriptors. The seed is fixed, so that a find can be found again.
	"random-calls": func([]string) {
		rng := rand.New(rand.NewPCG(1, 2))
		skip := []uintptr{
			unix.SYS_EXIT, unix.SYS_EXIT_GROUP, unix.SYS_RT_SIGRETURN, unix.SYS_CLONE, unix.SYS_EXECVE,
			unix.SYS_RT_SIGSUSPEND, unix.SYS_READ, unix.SYS_FUTEX, unix.SYS_NANOSLEEP,
			unix.SYS_WAIT4, unix.SYS_WAITID, unix.SYS_PPOLL, unix.SYS_PSELECT6, unix.SYS_RT_SIGTIMEDWAIT, unix.SYS_FLOCK, unix.SYS_KILL,
		}
		words := []uintptr{0, 1, 2, 3, 100, 4096, 1 << 31, 1<<32 - 1, 1 << 47, ^uintptr(0), ^uintptr(99), pointer(new([4096]byte)), text(home + "/main.txt"), text("/proc/self/mem")}
		end := time.Now().Add(300 * time.Millisecond)
		for time.Now().Before(end) {
			var plan [64][7]uintptr
			for i := range plan {
				nr := uintptr(rng.IntN(470))
				if slices.Contains(skip, nr) {
					nr = unix.SYS_GETPID
				}
				plan[i][0] = nr
				for k := 1; k < 7; k++ {
					plan[i][k] = words[rng.IntN(len(words))]
				}
			}
			pid, e := fork(0)
			if e != 0 {
				nap(0)
				continue
			}
			if pid == 0 {
				_, _ = call(unix.SYS_SETPGID, 0, 0)
				timer := [4]int64{0, 0, 0, 20_000} // microseconds
				_, _ = call(unix.SYS_SETITIMER, 0, pointer(&timer), 0)
				var act [4]uint64
				_, _ = call(unix.SYS_RT_SIGACTION, uintptr(syscall.SIGALRM), pointer(&act), 0, 8)
				for i := range plan {
					_, _ = call(plan[i][0], plan[i][1:]...)
				}
				exit(0)
			}
			// One that stopped itself, or that blocked its alarm, is not waited for.
			for range 50 {
				if got, _ := syscall.Wait4(pid, nil, syscall.WNOHANG, nil); got != 0 {
					break
				}
				time.Sleep(time.Millisecond)
			}
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	},
}

// int80 is 0 when the 32-bit system call getpid was refused.
func int80() int {
	code := []byte{0xb8, 20, 0, 0, 0, 0xcd, 0x80, 0xc3} // mov eax, getpid; int 0x80; ret
	page, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE|unix.PROT_EXEC, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return 0
	}
	copy(page, code)
	entry := uintptr(unsafe.Pointer(&page[0]))
	closure := unsafe.Pointer(&entry)
	if (*(*func() int32)(unsafe.Pointer(&closure)))() > 0 {
		return 1
	}
	return 0
}

// forbidden are the calls, with arguments that would be good ones.
func forbidden() map[string][]uintptr {
	tmp, self := text("/tmp"), uintptr(os.Getpid())
	list := map[string][]uintptr{
		"mount":             {unix.SYS_MOUNT, tmp, tmp, tmp, unix.MS_BIND, 0},
		"umount2":           {unix.SYS_UMOUNT2, tmp, unix.MNT_DETACH},
		"pivot_root":        {unix.SYS_PIVOT_ROOT, tmp, tmp},
		"chroot":            {unix.SYS_CHROOT, tmp},
		"unshare":           {unix.SYS_UNSHARE, unix.CLONE_NEWUSER},
		"setns":             {unix.SYS_SETNS, 0, 0},
		"clone3":            {unix.SYS_CLONE3, 0, 0},
		"open_tree":         {unix.SYS_OPEN_TREE, 0, tmp, unix.OPEN_TREE_CLONE},
		"fsopen":            {unix.SYS_FSOPEN, tmp, 0},
		"fspick":            {unix.SYS_FSPICK, 0, tmp, 0},
		"move_mount":        {unix.SYS_MOVE_MOUNT, 0, tmp, 0, tmp, 0},
		"mount_setattr":     {unix.SYS_MOUNT_SETATTR, 0, tmp, 0, 0, 0},
		"bpf":               {unix.SYS_BPF, 0, 0, 0},
		"io_uring_setup":    {unix.SYS_IO_URING_SETUP, 1, pointer(new([120]byte))},
		"io_uring_enter":    {unix.SYS_IO_URING_ENTER, 0, 0, 0, 0, 0},
		"io_uring_register": {unix.SYS_IO_URING_REGISTER, 0, 0, 0, 0},
		"perf_event_open":   {unix.SYS_PERF_EVENT_OPEN, pointer(new([128]byte)), 0, 0, 0, 0},
		"userfaultfd":       {unix.SYS_USERFAULTFD, 1},
		"keyctl":            {unix.SYS_KEYCTL, 0, 0},
		"add_key":           {unix.SYS_ADD_KEY, text("user"), text("x"), text("x"), 1, 0},
		"request_key":       {unix.SYS_REQUEST_KEY, text("user"), text("x"), 0, 0},
		"kexec_load":        {unix.SYS_KEXEC_LOAD, 0, 0, 0, 0},
		"kexec_file_load":   {unix.SYS_KEXEC_FILE_LOAD, 0, 0, 0, 0, 0},
		"reboot":            {unix.SYS_REBOOT, 0xfee1dead, 672274793, 0, 0},
		"init_module":       {unix.SYS_INIT_MODULE, 0, 0, tmp},
		"finit_module":      {unix.SYS_FINIT_MODULE, 0, tmp, 0},
		"delete_module":     {unix.SYS_DELETE_MODULE, tmp, 0},
		"swapon":            {unix.SYS_SWAPON, tmp, 0},
		"acct":              {unix.SYS_ACCT, 0},
		"ptrace":            {unix.SYS_PTRACE, unix.PTRACE_TRACEME, 0, 0, 0},
		"process_vm_readv":  {unix.SYS_PROCESS_VM_READV, self, 0, 0, 0, 0, 0},
		"open_by_handle_at": {unix.SYS_OPEN_BY_HANDLE_AT, 0, 0, 0},
		"name_to_handle_at": {unix.SYS_NAME_TO_HANDLE_AT, 0, tmp, 0, 0, 0},
		"fanotify_init":     {unix.SYS_FANOTIFY_INIT, 0, 0},
		"clock_settime":     {unix.SYS_CLOCK_SETTIME, 0, tmp},
		"settimeofday":      {unix.SYS_SETTIMEOFDAY, tmp, 0},
		"adjtimex":          {unix.SYS_ADJTIMEX, pointer(new([256]byte))},
		"sethostname":       {unix.SYS_SETHOSTNAME, tmp, 4},
		"setdomainname":     {unix.SYS_SETDOMAINNAME, tmp, 4},
		"syslog":            {unix.SYS_SYSLOG, 3, 0, 0},
		"quotactl":          {unix.SYS_QUOTACTL, 0, tmp, 0, 0},
		"seccomp":           {unix.SYS_SECCOMP, 0, 0, 0},
		"memfd_secret":      {447, 0},
		"mbind":             {unix.SYS_MBIND, 0, 0, 0, 0, 0, 0},
		"move_pages":        {unix.SYS_MOVE_PAGES, self, 0, 0, 0, 0, 0},
		"kcmp":              {unix.SYS_KCMP, self, self, 0, 0, 0},
		"pidfd_getfd":       {unix.SYS_PIDFD_GETFD, 0, 0, 0},
		"setuid":            {unix.SYS_SETUID, 0},
		"setgroups":         {unix.SYS_SETGROUPS, 0, 0},
		"inotify_init1":     {unix.SYS_INOTIFY_INIT1, 0},
		"io_setup":          {unix.SYS_IO_SETUP, 1 << 12, pointer(new(uint64))},
		"sync":              {unix.SYS_SYNC},
		"syncfs":            {unix.SYS_SYNCFS, 0},
		"statmount":         {457, 0, 0, 0, 0},
		"listmount":         {458, 0, 0, 0, 0},
		"open_tree_attr":    {467, 0, tmp, 0, 0, 0},
		"vhangup":           {unix.SYS_VHANGUP},
		"lookup_dcookie":    {unix.SYS_LOOKUP_DCOOKIE, 0, 0, 0},
	}
	return list
}
