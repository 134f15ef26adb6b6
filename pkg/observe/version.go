package observe

import (
	"fmt"
	"runtime/debug"
	"strings"
)

// version is set by -ldflags "-X .../pkg/observe.version=v1.2.3" in releases.
var version string

// Build says which program this is. Fields that are not known are empty.
type Build struct {
	Version  string `json:"version"`            // v1.2.3, or devel
	Revision string `json:"revision,omitempty"` // of the source, 12 hex digits
	Time     string `json:"time,omitempty"`     // of the revision, RFC 3339
	Modified bool   `json:"modified,omitempty"` // the source had uncommitted changes
	Go       string `json:"go"`                 // go1.26.0
}

// Version returns what the linker and the Go command recorded.
func Version() Build {
	b := Build{Version: version}
	info, ok := debug.ReadBuildInfo()
	if ok {
		b.Go = info.GoVersion
		if v := info.Main.Version; b.Version == "" && v != "(devel)" {
			b.Version = v
		}
		for _, s := range info.Settings {
			switch s.Key {
			case "vcs.revision":
				b.Revision = s.Value[:min(12, len(s.Value))]
			case "vcs.time":
				b.Time = s.Value
			case "vcs.modified":
				b.Modified = s.Value == "true"
			}
		}
	}
	if b.Version == "" {
		b.Version = "devel"
	}
	return b
}

// String is one line for people.
func (b Build) String() string {
	out := b.Version
	var more []string
	if b.Revision != "" && !strings.Contains(b.Version, b.Revision) {
		more = append(more, b.Revision)
	}
	if b.Modified && !strings.HasSuffix(b.Version, "+dirty") {
		more = append(more, "modified")
	}
	more = append(more, b.Go)
	return fmt.Sprintf("%s (%s)", out, strings.Join(more, ", "))
}
