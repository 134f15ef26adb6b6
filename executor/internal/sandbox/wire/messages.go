package wire

// Kinds of messages. The launcher answers each request with KindReply.
const (
	KindReply byte = iota + 1
	KindHello
	KindNewWorkspace
	KindDropWorkspace
	KindCloneWorkspace // answered with a mount that one box can attach
	KindBox

	KindGuest   // executor to init: become runsc, which starts another init inside
	KindSetup   // executor to init: what to mount
	KindCommand // executor to init: what to run, or what the interpreter that is held has to know
	KindKill    // executor to init, where it samples: kill the program, but give the account
	KindReady   // init to executor: everything is in place
	KindStarted // init to executor: the program runs, or why it does not
	KindEnded   // init to executor: the program ended and nothing is left alive
	KindFatal   // init to executor: the box is of no use

	KindConfine  // executor to a confined init, and on to the program's process: what it may
	KindLaunched // the program's process to its init: it becomes the program now, or could not
)

// Descriptors with which init is born.
const (
	InitControlFD   = 3
	InitExeFD       = 4
	InitWorkspaceFD = 5
)

// Descriptors with which runsc is started: the control socket and the program
// of the init inside, far from those that it got by chance.
const (
	GuestControlFD = 100
	GuestExeFD     = 101
)

// GuestDir is the folder of a box in which runsc keeps its bundle and its
// state, before gVisor's own /tmp covers it inside.
const GuestDir = "/tmp"

// First arguments by which a program knows that it was started as a part of
// the sandbox rather than by a person.
const (
	LauncherArg = "crucible-sandbox-launcher"
	InitArg     = "crucible-sandbox-init"
	ProbeArg    = "crucible-sandbox-probe"
	// Where there are no namespaces: init, and what becomes the program.
	ConfinedArg = "crucible-sandbox-confined"
	ProgramArg  = "crucible-sandbox-program"
)

// Bind is a read-only view of a host path in a box.
type Bind struct {
	Host    string
	Box     string
	Overlay bool
}

// Tree says what the root of a box holds. Boxes of equal trees share a
// template.
type Tree struct {
	Hostname string
	WorkDir  string
	UID, GID int64
	Binds    []Bind
}

// Key is the same for equal trees.
func (t *Tree) Key() string {
	e := NewEncoder(0)
	t.Encode(e)
	return string(e.Bytes())
}

// Encode appends the tree.
func (t *Tree) Encode(e *Encoder) {
	e.String(t.Hostname).String(t.WorkDir).Int(t.UID).Int(t.GID).Int(int64(len(t.Binds)))
	for _, b := range t.Binds {
		e.String(b.Host).String(b.Box).Bool(b.Overlay)
	}
}

// Decode reads what Encode wrote.
func (t *Tree) Decode(d *Decoder) {
	t.Hostname, t.WorkDir, t.UID, t.GID = d.String(), d.String(), d.Int(), d.Int()
	for range d.Int() {
		if d.Err() != nil {
			return
		}
		t.Binds = append(t.Binds, Bind{Host: d.String(), Box: d.String(), Overlay: d.Bool()})
	}
}

// BoxRequest asks the launcher for one box. With it travel the control
// socket for init and, where CgroupFD is set, the group to be born in.
type BoxRequest struct {
	Tree      Tree
	Workspace int64 // 0 for none
	ReadOnly  bool  // of the workspace
	HostUID   int64 // first of the two host ids of the box: init, then the program; 0 when rootless
	CgroupFD  bool
	// Lend maps a block of host ids too, from LentIDs up, in the box of a
	// zygote: its copies have ids of their own. The box's own are left out.
	Lend, LendCount int64
}

// LentIDs is the first of the ids, inside, that are lent to a zygote.
const LentIDs = 100_000

// Encode appends the request.
func (r *BoxRequest) Encode(e *Encoder) {
	r.Tree.Encode(e)
	e.Int(r.Workspace).Bool(r.ReadOnly).Int(r.HostUID).Bool(r.CgroupFD).Int(r.Lend).Int(r.LendCount)
}

// Decode reads what Encode wrote.
func (r *BoxRequest) Decode(d *Decoder) {
	r.Tree.Decode(d)
	r.Workspace, r.ReadOnly, r.HostUID, r.CgroupFD = d.Int(), d.Bool(), d.Int(), d.Bool()
	r.Lend, r.LendCount = d.Int(), d.Int()
}

// WorkspaceRequest asks the launcher for a scratch file system. HostUID
// owns its root.
type WorkspaceRequest struct {
	ID, Bytes, Inodes, HostUID int64
}

// Encode appends the request.
func (r *WorkspaceRequest) Encode(e *Encoder) {
	e.Int(r.ID).Int(r.Bytes).Int(r.Inodes).Int(r.HostUID)
}

// Decode reads what Encode wrote.
func (r *WorkspaceRequest) Decode(d *Decoder) {
	r.ID, r.Bytes, r.Inodes, r.HostUID = d.Int(), d.Int(), d.Int(), d.Int()
}

// Setup tells init what to mount before the command is known. With it travel
// the opened tasks files of the groups that the program is to be born in.
type Setup struct {
	WorkDir    string
	Workspace  bool // descriptor InitWorkspaceFD is a workspace for WorkDir
	TmpBytes   int64
	TmpInodes  int64
	ProcMask   []string // files of /proc to cover
	ProcRO     []string // folders of /proc to make read-only
	Overlays   []string // box paths that get a scratch upper layer
	UID, GID   int64    // of the program, inside
	KeepGroups bool     // rootless: supplementary groups cannot be dropped
	Filter     string   // struct sock_filter, raw
	// Guest says that this init is gVisor's: everything is mounted, and the
	// program's stdin, stdout and stderr are its own, because no descriptor can
	// follow through the socket.
	Guest bool
	// Zygote says that the program is an interpreter which makes boxes itself:
	// it keeps its privileges.
	Zygote bool
}

// Encode appends the setup.
func (s *Setup) Encode(e *Encoder) {
	e.String(s.WorkDir).Bool(s.Workspace).Int(s.TmpBytes).Int(s.TmpInodes)
	e.Strings(s.ProcMask).Strings(s.ProcRO).Strings(s.Overlays)
	e.Int(s.UID).Int(s.GID).Bool(s.KeepGroups).String(s.Filter).Bool(s.Guest).Bool(s.Zygote)
}

// Decode reads what Encode wrote.
func (s *Setup) Decode(d *Decoder) {
	s.WorkDir, s.Workspace, s.TmpBytes, s.TmpInodes = d.String(), d.Bool(), d.Int(), d.Int()
	s.ProcMask, s.ProcRO, s.Overlays = d.Strings(), d.Strings(), d.Strings()
	s.UID, s.GID, s.KeepGroups, s.Filter, s.Guest = d.Int(), d.Int(), d.Bool(), d.String(), d.Bool()
	s.Zygote = d.Bool()
}

// GuestFDs is how many descriptors come with a Guest before those of its
// groups: runsc, the program that becomes init inside, stdin, stdout, stderr.
const GuestFDs = 5

// Guest makes the first process of a box gVisor's runsc. With it travel the
// GuestFDs, and then what travels with Setup.
type Guest struct {
	Setup  Setup    // what to mount around runsc
	Args   []string // of runsc, its name first
	Config string   // the OCI bundle's config.json
}

// Encode appends the guest.
func (g *Guest) Encode(e *Encoder) {
	g.Setup.Encode(e)
	e.Strings(g.Args).String(g.Config)
}

// Decode reads what Encode wrote.
func (g *Guest) Decode(d *Decoder) {
	g.Setup.Decode(d)
	g.Args, g.Config = d.Strings(), d.String()
}

// Rlimit is one resource limit, hard and soft alike.
type Rlimit struct{ Resource, Value int64 }

// Zygote tells a zygote what its copies have in common, and CopyRequest what
// one has of its own. With that travel: the control socket, the descriptor of
// the release, stdin, stdout, stderr, a mount of the workspace, and the tasks
// files of the groups.
type Zygote struct{ Setup Setup }

// Encode appends what the zygote reads (crucible_zygote.py).
func (z *Zygote) Encode(e *Encoder) {
	s := &z.Setup
	e.Int(int64(KindEnded)).Int(int64(KindFatal)).Int(s.UID).Int(s.GID).String(s.WorkDir)
	e.Strings(s.ProcMask).Strings(s.ProcRO).String(s.Filter)
}

// CopyRequest asks a zygote for a copy. FirstID is the first of its two ids,
// as the zygote sees them; Tmp are the options of its /tmp.
type CopyRequest struct {
	FirstID int64
	Tmp     string
}

// Encode appends what the zygote reads.
func (r *CopyRequest) Encode(e *Encoder) { e.Int(r.FirstID).String(r.Tmp) }

// Command tells init what to run. With it travel stdin, stdout and stderr.
// After one with Hold comes another, without descriptors, that brings what
// was not known: Argv are then more arguments, and Env more variables.
type Command struct {
	Path    string // what to execute; empty: looked up from Argv[0]
	Hold    bool   // an interpreter: start it, and let it go at the next command
	Argv    []string
	Env     []string
	Dir     string
	Rlimits []Rlimit
	// Sampling: init watches memory and CPU of the box itself, because no
	// cgroup does, and processes are held by a resource limit. Zero means no
	// limit.
	Sample          bool
	SampleMemory    int64 // bytes
	SampleCPU       int64 // nanoseconds
	SampleProcesses int64
}

// Encode appends the command.
func (c *Command) Encode(e *Encoder) {
	e.String(c.Path).Bool(c.Hold).Strings(c.Argv).Strings(c.Env).String(c.Dir).Int(int64(len(c.Rlimits)))
	for _, r := range c.Rlimits {
		e.Int(r.Resource).Int(r.Value)
	}
	e.Bool(c.Sample).Int(c.SampleMemory).Int(c.SampleCPU).Int(c.SampleProcesses)
}

// Decode reads what Encode wrote.
func (c *Command) Decode(d *Decoder) {
	c.Path, c.Hold, c.Argv, c.Env, c.Dir = d.String(), d.Bool(), d.Strings(), d.Strings(), d.String()
	for range d.Int() {
		if d.Err() != nil {
			return
		}
		c.Rlimits = append(c.Rlimits, Rlimit{Resource: d.Int(), Value: d.Int()})
	}
	c.Sample, c.SampleMemory, c.SampleCPU, c.SampleProcesses = d.Bool(), d.Int(), d.Int(), d.Int()
}

// Started says that the program runs since At, or with Errno not zero that
// it could not be executed.
type Started struct {
	At    int64 // CLOCK_MONOTONIC, nanoseconds
	Errno int64
}

// Encode appends the message.
func (s *Started) Encode(e *Encoder) { e.Int(s.At).Int(s.Errno) }

// Decode reads what Encode wrote.
func (s *Started) Decode(d *Decoder) { s.At, s.Errno = d.Int(), d.Int() }

// What init's own sampling ended a program for.
const (
	SampledNothing int64 = iota
	SampledMemory
	SampledCPU
	SampledProcesses
)

// Ended is the end of the program, sent when nothing else lives in the box.
type Ended struct {
	At         int64 // CLOCK_MONOTONIC, nanoseconds, of the main process's end
	WaitStatus int64 // as wait4 gives it
	CPU        int64 // nanoseconds of all processes that init could wait for
	MaxRSS     int64 // bytes, of the largest single process
	Sampled    int64 // see SampledMemory
	MemoryPeak int64 // bytes, sampled
	ProcsPeak  int64 // sampled
	Alone      bool  // the program was one process of one thread
}

// Encode appends the message.
func (x *Ended) Encode(e *Encoder) {
	e.Int(x.At).Int(x.WaitStatus).Int(x.CPU).Int(x.MaxRSS).Int(x.Sampled).Int(x.MemoryPeak).Int(x.ProcsPeak).Bool(x.Alone)
}

// Decode reads what Encode wrote.
func (x *Ended) Decode(d *Decoder) {
	x.At, x.WaitStatus, x.CPU, x.MaxRSS = d.Int(), d.Int(), d.Int(), d.Int()
	x.Sampled, x.MemoryPeak, x.ProcsPeak, x.Alone = d.Int(), d.Int(), d.Int(), d.Bool()
}
