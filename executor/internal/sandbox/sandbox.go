package sandbox

import (
	"context"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"time"

	"github.com/crucible-eval/crucible/executor/internal/sandbox/gate"
)

// Config is what Open needs; the zero value is right for production.
type Config struct {
	// Level is the one to make, and no other. Empty: the strongest of namespaces,
	// namespaces-rlimit and landlock that this machine allows.
	Level string
	// AllowUnsafe lets LevelNone be asked for.
	AllowUnsafe bool
	// RunscPath is gVisor's program for LevelGVisor. Empty: "runsc" beside the
	// executable or in PATH.
	RunscPath string
	// InitPath is the program that becomes the launcher and the first process
	// of each box. Empty: "sandbox-init" beside the executable if it is there,
	// else this executable itself, whose main must then call MaybeInit first.
	InitPath string
	// Logger receives one line per change of state. nil: slog.Default().
	Logger *slog.Logger
}

// Runtime makes boxes. All methods may be called concurrently.
type Runtime interface {
	// Probe tries out, in real boxes, what boxes promise, and reports what
	// happened. It takes about a tenth of a second. An error means that no box
	// could be made at all, and says what to do about it.
	Probe(ctx context.Context) (Isolation, error)
	// NewWorkspace makes an empty scratch file system.
	NewWorkspace(ctx context.Context, spec WorkspaceSpec) (Workspace, error)
	// Prepare makes a box that can run one command. It may return before
	// everything is mounted; what goes wrong then is reported by Run.
	Prepare(ctx context.Context, spec BoxSpec) (Box, error)
	// Close kills every box, waits until they are gone, and removes everything
	// that was made. Closing twice is fine.
	Close() error
}

// Warmer is a Runtime whose boxes may be able to hold a Warm.
type Warmer interface {
	CanWarm() bool
	CanFork() bool
	// NewZygote starts an interpreter of which boxes can be copies, and waits
	// until it can make them. ErrUnsupported, ErrPlatform.
	NewZygote(ctx context.Context, spec ZygoteSpec) (Zygote, error)
}

// ZygoteSpec says what a zygote is.
type ZygoteSpec struct {
	Warm     *Warm // started with a script that can make copies: python/sitecustomize.py
	Binds    []Bind
	Hostname string
}

// Zygote is an interpreter which is never given a program, and is copied for
// each that runs. Copies share its hash seed and the layout of its memory, so
// that only programs that trust each other should be copies of the same.
type Zygote interface {
	// Alive tells whether it can still make copies.
	Alive() bool
	// Close ends it when the last of its copies is closed. Closing twice is fine.
	Close()
}

// WorkspaceSpec bounds a workspace.
type WorkspaceSpec struct {
	Bytes  int64 // 64 KiB to 16 GiB; 0: 64 MiB. It counts against the memory limit of the box that writes
	Inodes int64 // files and folders, 16 to 10 million; 0: 16,384
}

// Usage is how full a workspace is.
type Usage struct {
	Bytes, MaxBytes   int64
	Inodes, MaxInodes int64
}

// Full tells whether one more page or file would be refused.
func (u Usage) Full() bool {
	return u.Bytes+int64(os.Getpagesize()) > u.MaxBytes || u.Inodes >= u.MaxInodes
}

// Workspace is a scratch file system in memory that holds the program's
// files. It lives from the compile box to the run boxes, and appears in each
// at WorkDir. Paths are relative to its root: see ValidatePath.
//
// The host reaches its files only while no box runs in it, and follows no
// link: errors are ErrBusy, ErrPath, ErrNotRegular, fs.ErrNotExist, or
// syscall.ENOSPC where the quota is used up.
type Workspace interface {
	// WriteFile makes or replaces a file that belongs to the program's user,
	// and the folders above it. mode holds permission bits only.
	WriteFile(path string, content []byte, mode fs.FileMode) error
	// Open opens a regular file for reading.
	Open(path string) (*os.File, error)
	// ReadFile returns the first max bytes of a regular file.
	ReadFile(path string, max int64) ([]byte, error)
	// List finds what is there, links not followed: at most limit entries, what
	// lies less deep first, and names of a folder in byte order. whole is false
	// when there is more, or something deeper or longer than paths may be.
	List(limit int) (entries []Entry, whole bool, err error)
	// Usage tells how full it is.
	Usage() (Usage, error)
	// Close frees it, in part in the background: Runtime.Close waits for it.
	// Boxes that still have it keep it until they are closed. Closing twice is
	// fine.
	Close() error
}

// Entry is a file, folder, link or other thing in a workspace.
type Entry struct {
	Path  string      // any bytes but NUL
	Type  fs.FileMode // type bits only: 0 is a regular file
	Bytes int64       // of a regular file
}

// WorkDir is where a box has its workspace, its home folder, and the default
// folder of its command.
const WorkDir = "/w"

// Bind shows a host path in boxes, read-only, nosuid and nodev. What the
// program may read is decided by the host's permission bits: it is a stranger
// to all of them. Host paths show in the box's /proc/self/mountinfo.
type Bind struct {
	Host string // absolute; must exist
	Box  string // absolute; not below /proc, /tmp or WorkDir
	// Overlay makes the folder writable for the program: changes go to a layer
	// in the box's /tmp quota and are gone with the box.
	Overlay bool
}

// BoxSpec says what is in a box before its command is known.
type BoxSpec struct {
	Workspace         Workspace // nil: WorkDir is an empty read-only folder
	WorkspaceReadOnly bool
	// Binds are added to the host's /usr, /bin, /sbin, /lib*, /etc/alternatives.
	// Boxes with equal binds share a template: keep the number of lists small.
	Binds     []Bind
	Hostname  string // empty: "sandbox"
	TmpBytes  int64  // quota of /tmp and /dev/shm; 0: 64 MiB
	TmpInodes int64  // 0: 16,384
	// Warm starts an interpreter in the box, which waits for its program.
	// ErrUnsupported where the runtime cannot (see Warmer).
	Warm *Warm
	// Zygote makes the box, as a copy of that interpreter; Warm, Binds and
	// Hostname are those of the zygote. There must be a Workspace.
	Zygote Zygote

	self   bool     // the program is this one: the probe
	breeds *os.File // the interpreter of Warm is a zygote: its end of the socket
}

// GateDir is where every box has the scripts behind which interpreters wait:
// python/sitecustomize.py, for a folder in PYTHONPATH, and node.js, for
// --require. Without a Warm they do nothing.
const GateDir = gate.Dir

// Warm is an interpreter that is started before its program is known, by way
// of one of the scripts in GateDir. The command that the box then runs has Args
// and more arguments after them, Env and more variables, and WorkDir. Its wall
// and its CPU time count from when it is let go. It cannot have more open
// files or another stack than Limits have by default.
type Warm struct {
	Start []string // what is executed: the interpreter, by way of a script
	Gate  []string // variables of the start alone, such as "PYTHONPATH=/.gate/python"
	Args  []string // what the program is told that was executed
	Env   []string // "KEY=value"
}

// Box runs one command. It must be closed whether or not it ran.
type Box interface {
	// Run starts the command and returns when it has ended and nothing of it is
	// alive any more. Whatever the program does is a Report; an error means
	// that the platform failed (ErrPlatform, always safe to try again in a new
	// box), or that the command can never be run (ErrCommand). A second call
	// is ErrUsed.
	//
	// When ctx ends, everything is killed at once and the report says
	// LimitCancelled; output so far has been written.
	Run(ctx context.Context, cmd Command) (Report, error)
	// Close kills what is there and gives back the box's resources, in part in
	// the background: Runtime.Close waits for it. Closing twice is fine.
	Close() error
}

// Command is what to run. Nothing is read from the executor's environment.
type Command struct {
	Argv []string // Argv[0]: a path of the box, or a name looked up in Env's PATH
	Env  []string // "KEY=value"; together with Argv at most 128 KiB
	Dir  string   // a path of the box; empty: WorkDir
	// Stdin is copied to the program as it reads; nil: /dev/null. A Read that
	// blocks does not hold up Run, but must return some day. If it fails, the
	// program sees the end of its input.
	Stdin io.Reader
	// Stdout and Stderr receive the output while the program runs, each from
	// one goroutine; nil: counted and dropped. A Write must not block for long:
	// the program waits for it once the pipe is full. If it fails, output is
	// counted and dropped from there on.
	Stdout, Stderr io.Writer
	Limits         Limits

	exe string // what to execute instead of Argv[0]: the probe's own program
}

// Limits bound one command. Zero means the default, named with each.
type Limits struct {
	Wall        time.Duration // 10 s
	CPU         time.Duration // all processes together; none, so Wall bounds it
	MemoryBytes int64         // all processes together, page cache and scratch files included; 256 MiB, at least 1 MiB
	Processes   int           // processes and threads alive at once; 64
	FileBytes   int64         // one file's size; above it SIGXFSZ; 0: as much as the quotas allow
	OpenFiles   int           // descriptors per process; 256
	StackBytes  int64         // of a main thread; 64 MiB, never above MemoryBytes
	OutputBytes int64         // each of stdout and stderr; 1 MiB
	CutOutput   bool          // at OutputBytes: false ends the program, true goes on and drops the rest
}

// Limit names what ended a program.
type Limit string

// The limits that a report can name. A program that went away by itself has
// LimitNone, though it may have met EAGAIN, ENOSPC or EMFILE before.
const (
	LimitNone     Limit = ""
	LimitWall     Limit = "wall"
	LimitCPU      Limit = "cpu"
	LimitMemory   Limit = "oom"
	LimitStdout   Limit = "stdout"
	LimitStderr   Limit = "stderr"
	LimitFileSize Limit = "file_size" // the main process died of SIGXFSZ
	// Where no file system and no counter refuse what is too much, the program
	// is ended for it.
	LimitDisk      Limit = "disk"
	LimitProcesses Limit = "processes"
	LimitCancelled Limit = "cancelled" // the context ended
)

// Report is what happened to a program.
type Report struct {
	// ExitCode is what the main process returned, 0 to 255, or -1 when a signal
	// ended it. StartError, when set, says why the program could not be
	// executed at all; ExitCode is then 127 (not found) or 126.
	ExitCode   int
	Signal     int // 0 for none; SIGKILL where a limit ended it
	StartError string
	Limit      Limit
	// OOMKilled is true when the kernel killed any process of the box for
	// memory, whatever became of the main one.
	OOMKilled bool

	Wall          time.Duration // of the main process
	CPU           time.Duration // user and system, all processes
	MemoryPeak    int64         // bytes, all processes at once
	ProcessesPeak int           // processes and threads at once, 0 if unknown

	// What the program wrote until it ended; at most OutputBytes of each went
	// to the writers, and Truncated says that there was more.
	StdoutBytes, StderrBytes         int64
	StdoutTruncated, StderrTruncated bool
}
