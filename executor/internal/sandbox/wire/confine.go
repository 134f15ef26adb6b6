package wire

// Path is what a confined program may do with a path: see landlock.Rule.
type Path struct {
	Name   string
	Access int64
}

// Confine tells an init without namespaces what its program may. With it
// travel the opened tasks files of the groups that the program is to be in.
type Confine struct {
	UID, GID int64 // to become; 0 stays what the executor is
	Landlock int64 // ABI to confine with; 0: not at all
	Fence    bool  // keep signals in the box, so that all of it can be killed at once
	Paths    []Path
	Filter   string // struct sock_filter, raw; empty: none
	Umask    int64
}

// Encode appends the message.
func (c *Confine) Encode(e *Encoder) {
	e.Int(c.UID).Int(c.GID).Int(c.Landlock).Bool(c.Fence).String(c.Filter).Int(c.Umask).Int(int64(len(c.Paths)))
	for _, p := range c.Paths {
		e.String(p.Name).Int(p.Access)
	}
}

// Decode reads what Encode wrote.
func (c *Confine) Decode(d *Decoder) {
	c.UID, c.GID, c.Landlock, c.Fence, c.Filter, c.Umask = d.Int(), d.Int(), d.Int(), d.Bool(), d.String(), d.Int()
	for range d.Int() {
		if d.Err() != nil {
			return
		}
		c.Paths = append(c.Paths, Path{d.String(), d.Int()})
	}
}

// Launched is the last word of the process that becomes the program. Errno
// follows in a second message if it could not. CPU and MaxRSS are what it
// used itself until then.
type Launched struct {
	At, Errno, CPU, MaxRSS int64
}

// Encode appends the message.
func (l *Launched) Encode(e *Encoder) { e.Int(l.At).Int(l.Errno).Int(l.CPU).Int(l.MaxRSS) }

// Decode reads what Encode wrote.
func (l *Launched) Decode(d *Decoder) {
	l.At, l.Errno, l.CPU, l.MaxRSS = d.Int(), d.Int(), d.Int(), d.Int()
}
