package platform

import (
	"cmp"
	"fmt"
	"time"

	"github.com/crucible-eval/crucible/pkg/config"
	"github.com/crucible-eval/crucible/pkg/eval"
)

// Grants is what programs get and what they may ask for. A zero field is the
// value of eval.DefaultPolicy, which the defaults below repeat for the help.
// The API and its executors should be given the same: each refuses what lies
// beyond its own.
type Grants struct {
	DefaultWall   time.Duration `group:"Limits" env:"CRUCIBLE_DEFAULT_WALL" default:"10s" help:"Real time of a program that does not ask; its CPU time too."`
	DefaultMemory config.Size   `group:"Limits" env:"CRUCIBLE_DEFAULT_MEMORY" default:"256MiB" help:"Memory of a program that does not ask."`
	MaxWall       time.Duration `group:"Limits" env:"CRUCIBLE_MAX_WALL" default:"5m" help:"The most real time that a program may ask for."`
	MaxCPU        time.Duration `name:"max-cpu" group:"Limits" env:"CRUCIBLE_MAX_CPU" default:"10m" help:"The most CPU time, summed over its processes."`
	MaxMemory     config.Size   `group:"Limits" env:"CRUCIBLE_MAX_MEMORY" default:"4GiB" help:"The most memory."`
	MaxProcesses  int64         `group:"Limits" env:"CRUCIBLE_MAX_PROCESSES" default:"1024" help:"The most processes and threads at once."`
	MaxOutput     config.Size   `group:"Limits" env:"CRUCIBLE_MAX_OUTPUT" default:"64MiB" help:"The longest stdout, and stderr."`
	MaxDisk       config.Size   `group:"Limits" env:"CRUCIBLE_MAX_DISK" default:"1GiB" help:"The largest work folder, which is memory of the host."`

	MaxTestsWall     time.Duration `group:"Limits" env:"CRUCIBLE_MAX_TESTS_WALL" default:"2h" help:"The most real time of all tests of a program and their checkers, by their limits."`
	MaxArtifacts     int           `group:"Limits" env:"CRUCIBLE_MAX_ARTIFACTS" default:"100" help:"How many files come back from a work folder."`
	MaxArtifactSize  config.Size   `group:"Limits" env:"CRUCIBLE_MAX_ARTIFACT_SIZE" default:"16MiB" help:"The largest of them."`
	MaxArtifactTotal config.Size   `group:"Limits" env:"CRUCIBLE_MAX_ARTIFACT_TOTAL" default:"64MiB" help:"All of them together."`
}

// policy is an error where a default lies beyond what may be asked for.
func (g Grants) policy() (eval.Policy, error) {
	p := eval.DefaultPolicy()
	set := func(to *int64, v int64) {
		if v != 0 {
			*to = v
		}
	}
	set(&p.Default.WallMS, g.DefaultWall.Milliseconds())
	set(&p.Default.CPUMS, g.DefaultWall.Milliseconds())
	set(&p.Default.MemoryBytes, int64(g.DefaultMemory))
	set(&p.Max.WallMS, g.MaxWall.Milliseconds())
	set(&p.Max.CPUMS, g.MaxCPU.Milliseconds())
	set(&p.Max.MemoryBytes, int64(g.MaxMemory))
	set(&p.Max.Processes, g.MaxProcesses)
	set(&p.Max.OutputBytes, int64(g.MaxOutput))
	set(&p.Max.DiskBytes, int64(g.MaxDisk))
	set(&p.MaxArtifactBytes, int64(g.MaxArtifactSize))
	set(&p.MaxArtifactsBytes, int64(g.MaxArtifactTotal))
	p.MaxArtifacts, p.MaxTestsWall = cmp.Or(g.MaxArtifacts, p.MaxArtifacts), cmp.Or(g.MaxTestsWall, p.MaxTestsWall)
	if _, bad := p.Grant(p.Default); len(bad) > 0 {
		return p, fmt.Errorf("the limits do not fit together: by default %s %s; see the settings --default-* and --max-*", bad[0].Field, bad[0].Message)
	}
	return p, nil
}
