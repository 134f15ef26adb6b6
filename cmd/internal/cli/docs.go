package cli

import (
	"fmt"
	"io"

	"github.com/alecthomas/kong"

	"github.com/crucible-eval/crucible/pkg/config"
)

const configurationIntro = `# Configuration

<!-- Written by go generate in cmd; do not edit. -->

Everything has a default: ` + "`crucible up`" + ` needs no configuration. A setting is given as a flag, as an environment
variable, or in a YAML file, and counts in that order: flag, environment, file, default.

The file is the one that ` + "`--config`" + ` or ` + "`CRUCIBLE_CONFIG`" + ` names, else ` + "`crucible/crucible.yaml`" + ` in ` + "`$XDG_CONFIG_HOME`" + `
(` + "`~/.config`" + `). Its keys stand in the first column. Settings for one command only stand below its name, and win over those
at the top:

` + "```yaml" + `
redis_url: redis://127.0.0.1:6379/0
worker:
  listen: 127.0.0.1:8081
` + "```" + `

A key that is not known is an error. ` + "`crucible config check`" + ` reads the file and the environment and says what is wrong;
` + "`crucible config print --for worker`" + ` prints the settings as they are, in the form of a file that can be read again.
Passwords, keys and tokens are printed as REDACTED unless ` + "`--show-secrets`" + ` is given, and a redacted file is refused.

Lists are YAML lists in the file, repeated flags, and separated by commas in the environment. Times are written 250ms, 15s or
1m30s. The data folder belongs to one process at a time: a second one is refused.
`

// Documentation writes the page that lists every setting.
func Documentation(w io.Writer) error {
	parser, err := New(&Grammar{}, Streams{Out: io.Discard, Err: io.Discard}, kong.Exit(func(int) {}))
	if err != nil {
		return err
	}
	if _, err := fmt.Fprint(w, configurationIntro); err != nil {
		return err
	}
	return config.Markdown(w, parser.Model.Node)
}
