// Package sandbox runs programs that nobody trusts, in boxes, and reports
// what happened to them. It knows nothing of languages, verdicts or HTTP.
//
// # Use
//
//	func main() {
//		sandbox.MaybeInit() // first: this process may be a part of a sandbox
//		...
//	}
//
//	r, err := sandbox.Open(ctx, sandbox.Config{})        // once
//	w, err := r.NewWorkspace(ctx, sandbox.WorkspaceSpec{}) // per submission
//	err = w.WriteFile("main.c", code, 0o644)
//	b, err := r.Prepare(ctx, sandbox.BoxSpec{Workspace: w}) // per command
//	rep, err := b.Run(ctx, sandbox.Command{Argv: []string{"cc", "main.c"}, ...})
//	b.Close()
//	... another box on the same workspace runs ./a.out ...
//	w.Close()
//	r.Close()
//
// Whatever a program does is a Report. An error is one of: ErrUnsupported
// (no boxes on this machine; says what to do), ErrPlatform (this box failed;
// try again in a new one), ErrCommand (this command can never run). Boxes on
// one workspace may run at the same time; the host reaches the files only
// while none does (ErrBusy).
//
// # Warm boxes
//
// Making a box takes about as long as a small program runs. What is prepared
// before the request costs it nothing: a workspace and a box on it can wait
// for as long as one likes, and files may be written while the box waits.
// Keep pairs of them per list of binds.
//
// # Inside a box
//
// The root is an empty read-only tmpfs with read-only binds of /usr, /bin,
// /sbin, /lib*, /etc/alternatives and what BoxSpec.Binds adds; a handful of
// files in /etc written for the box; /dev with null, zero, full, random,
// urandom and the fd links; a fresh /proc; /tmp (also as /dev/shm) on a tmpfs
// with a quota; the workspace at WorkDir, which is the home folder and the
// default working folder. The program is uid and gid 1000 of its own user
// namespace, a host id that nothing else has, without capabilities, with
// no_new_privs and a seccomp filter, in its own pid, mount, network (own
// loopback only), ipc, uts and cgroup namespaces.
//
// # Processes
//
//	executor --socket--> launcher --clone--> init --fork--> program
//	    \________ socket, pipes, process descriptor ____/
//
// The launcher is this program (or sandbox-init) started again. It exists
// because cloning into a user namespace copies the caller's page tables: a
// small process does it faster. It keeps one thread per kind of root, whose
// mount namespace boxes copy (package launcher).
//
// Init is PID 1 of the box. It mounts what must be fresh, waits for the
// command on a socket of its own to the executor, starts the program from a
// thread that has given up everything, waits for it, kills the rest, and
// reports (package boxinit). The executor watches limits from outside and
// needs only one action to end a box: killing init, without which the kernel
// lets no process of a pid namespace live. The launcher's death kills every
// init, and the executor's death ends the launcher.
//
// # Without namespaces
//
// At the levels landlock and none there is no launcher and no root of a box's
// own: init is a process of the executor, and so is what becomes the program.
// Folders are on a disk, below a private one of the executor; a box's names
// for them are aliases, replaced in commands. See confined_linux.go, package
// landlock, and docs/adr/0027-without-namespaces.md.
//
// # Limits
//
// Memory, processes and CPU time are bounded and counted by cgroups of
// version 1 or 2 (package cgroup), made below the group of the executor and
// locked by it, so that the next executor removes what a killed one left. On
// version 1 the program is born in its groups; on version 2 the whole box
// is. Without a writable cgroup the level is namespaces-rlimit: init adds up
// its children every 10 ms instead. Wall time is the executor's timer from the
// moment of the fork; output is counted and cut where the executor drains it.
package sandbox
