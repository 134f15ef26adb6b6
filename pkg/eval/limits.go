package eval

import (
	"fmt"
	"time"
)

// Limits bound one run of a program. A zero field means "the default".
// Compilation has limits of its own, which belong to the language.
type Limits struct {
	WallMS      int64 `json:"wall_ms,omitempty"`      // real time, milliseconds
	CPUMS       int64 `json:"cpu_ms,omitempty"`       // CPU time summed over all processes, milliseconds
	MemoryBytes int64 `json:"memory_bytes,omitempty"` // all processes together, tmpfs included
	Processes   int64 `json:"processes,omitempty"`    // processes and threads alive at once
	OutputBytes int64 `json:"output_bytes,omitempty"` // each of stdout and stderr
	DiskBytes   int64 `json:"disk_bytes,omitempty"`   // the work folder
}

// Wall is WallMS as a duration.
func (l Limits) Wall() time.Duration { return time.Duration(l.WallMS) * time.Millisecond }

// CPU is CPUMS as a duration.
func (l Limits) CPU() time.Duration { return time.Duration(l.CPUMS) * time.Millisecond }

// Policy is what a server grants: what a request gets when it does not ask,
// the least and the most that it may ask for, and how large a program may be.
type Policy struct {
	Default, Min, Max Limits
	MaxProgramBytes   int64 // code, files, stdin and tests together
	MaxTests          int
	MaxFiles          int
	MaxTestsWall      time.Duration // all tests of a program and their checkers, by their limits

	MaxArtifacts      int   // files that come back
	MaxArtifactBytes  int64 // each of them
	MaxArtifactsBytes int64 // all together

	// MaxRunAhead bounds run_at.
	MaxRunAhead time.Duration
}

// DefaultPolicy is the one that crucible starts with.
func DefaultPolicy() Policy {
	const mib = 1 << 20
	return Policy{
		Default: Limits{WallMS: 10_000, CPUMS: 10_000, MemoryBytes: 256 * mib, Processes: 64, OutputBytes: 1 * mib, DiskBytes: 64 * mib},
		Min:     Limits{WallMS: 10, CPUMS: 10, MemoryBytes: 4 * mib, Processes: 1, OutputBytes: 1, DiskBytes: 64 << 10},
		Max:     Limits{WallMS: 300_000, CPUMS: 600_000, MemoryBytes: 4096 * mib, Processes: 1024, OutputBytes: 64 * mib, DiskBytes: 1024 * mib},

		MaxProgramBytes: 4 * mib,
		MaxTests:        200,
		MaxFiles:        200,
		MaxTestsWall:    2 * time.Hour,

		MaxArtifacts:      100,
		MaxArtifactBytes:  16 * mib,
		MaxArtifactsBytes: 64 * mib,

		MaxRunAhead: 30 * 24 * time.Hour,
	}
}

// limitField names one field of Limits, for the code that treats all alike.
type limitField struct {
	name string
	of   func(*Limits) *int64
}

func limitFields() []limitField {
	return []limitField{
		{"wall_ms", func(l *Limits) *int64 { return &l.WallMS }},
		{"cpu_ms", func(l *Limits) *int64 { return &l.CPUMS }},
		{"memory_bytes", func(l *Limits) *int64 { return &l.MemoryBytes }},
		{"processes", func(l *Limits) *int64 { return &l.Processes }},
		{"output_bytes", func(l *Limits) *int64 { return &l.OutputBytes }},
		{"disk_bytes", func(l *Limits) *int64 { return &l.DiskBytes }},
	}
}

// Grant fills the zero fields of asked with the defaults and refuses what
// lies outside the policy. What is granted is exactly what was asked for:
// nothing is clamped in silence. When cpu_ms is left out it follows wall_ms,
// so that a longer wall limit is not cut short by the default CPU limit.
func (p Policy) Grant(asked Limits) (Limits, []FieldError) { return p.grant(asked, p.Default) }

// grant is Grant with defaults of its own.
func (p Policy) grant(asked, defaults Limits) (Limits, []FieldError) {
	granted := asked
	if granted.CPUMS == 0 && granted.WallMS > defaults.WallMS {
		granted.CPUMS = max(min(granted.WallMS, p.Max.CPUMS), defaults.CPUMS)
	}
	var bad []FieldError
	for _, f := range limitFields() {
		v, least, most := f.of(&granted), *f.of(&p.Min), *f.of(&p.Max)
		switch {
		case *v == 0:
			*v = *f.of(&defaults)
		case *v < least || *v > most:
			bad = append(bad, FieldError{"limits." + f.name, fmt.Sprintf("is %d; this server grants %d to %d", *v, least, most)})
		}
	}
	return granted, bad
}
