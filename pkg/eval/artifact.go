package eval

import (
	"encoding/json"
	"fmt"
	"path"
	"strings"
)

// Artifact is a file that the program left in its work folder and that the
// request asked for.
type Artifact struct {
	Path    string // relative to the work folder, with slashes
	SHA256  string // of the content, in hex; "" with Error
	Error   string // why there is no content; "" when there is
	Content Stream // never truncated; with Error only its Bytes, where they are known
}

type artifactJSON struct {
	Path     string `json:"path"`
	Bytes    int64  `json:"bytes"`
	SHA256   string `json:"sha256,omitempty"`
	Error    string `json:"error,omitempty"`
	Data     string `json:"data,omitempty"`
	Encoding string `json:"encoding,omitempty"`
	Blob     string `json:"blob,omitempty"`
}

// MarshalJSON writes {path, bytes, sha256, data, encoding} and, where the
// data is only the beginning, blob; or {path, bytes, error}.
func (a Artifact) MarshalJSON() ([]byte, error) {
	j := artifactJSON{Path: a.Path, Bytes: a.Content.Bytes, SHA256: a.SHA256, Error: a.Error, Blob: a.Content.Blob}
	if a.Error == "" {
		j.Data, j.Encoding = encode(a.Content.Data)
	}
	return marshal(j)
}

// UnmarshalJSON reads what MarshalJSON writes.
func (a *Artifact) UnmarshalJSON(raw []byte) error {
	var j artifactJSON
	if err := json.Unmarshal(raw, &j); err != nil {
		return err
	}
	data, err := decode(j.Data, j.Encoding)
	if err != nil {
		return fmt.Errorf("artifact %q: %w", j.Path, err)
	}
	*a = Artifact{Path: j.Path, SHA256: j.SHA256, Error: j.Error, Content: Stream{Bytes: j.Bytes, Blob: j.Blob}}
	if j.Error == "" {
		a.Content.Data = data
	}
	return nil
}

// Pattern chooses artifacts by their path: as [path.Match] between slashes,
// and the element ** is any number of folders, also none.
type Pattern string

// MaxPatterns is how many one request may have.
const MaxPatterns = 32

// problem says what is wrong with a pattern, or "".
func (p Pattern) problem() string {
	if problem := CheckPath(strings.ReplaceAll(string(p), `\`, "")); problem != "" {
		return problem
	}
	if len(p) > MaxPath {
		return fmt.Sprintf("is longer than %d bytes", MaxPath)
	}
	for element := range strings.SplitSeq(string(p), "/") {
		if _, err := path.Match(element, ""); err != nil {
			return "is not a pattern: a [ without its ], or a backslash at an end"
		}
	}
	return ""
}

// Literal reports whether the pattern names one path.
func (p Pattern) Literal() bool { return !strings.ContainsAny(string(p), `*?[\`) }

// Match reports whether the pattern chooses the path of a file. It takes at
// most as many steps as the two have elements, multiplied.
func (p Pattern) Match(name string) bool {
	elements := strings.Split(name, "/")
	// reach[i]: the pattern so far matches the first i elements.
	reach := make([]bool, len(elements)+1)
	reach[0] = true
	for want := range strings.SplitSeq(string(p), "/") {
		next := make([]bool, len(reach))
		for i := range reach {
			if want == "**" {
				next[i] = reach[i] || i > 0 && next[i-1]
			} else if i > 0 && reach[i-1] {
				next[i], _ = path.Match(want, elements[i-1])
			}
		}
		reach = next
	}
	return reach[len(elements)]
}

// validateArtifacts checks the patterns.
func (p Program) validateArtifacts(wrong func(string, string, ...any)) {
	if len(p.Artifacts) > 0 && len(p.Tests) > 0 {
		wrong("artifacts", "cannot be asked for together with tests: a test's outcome is its output")
	}
	if len(p.Artifacts) > MaxPatterns {
		wrong("artifacts", "has %d entries; at most %d are accepted", len(p.Artifacts), MaxPatterns)
	}
	for i, pattern := range p.Artifacts {
		if problem := pattern.problem(); problem != "" {
			wrong(fmt.Sprintf("artifacts[%d]", i), "%s", problem)
		}
	}
}
