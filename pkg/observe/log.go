package observe

import (
	"fmt"
	"io"
	"log/slog"
	"os"

	"github.com/lmittmann/tint"
	"github.com/mattn/go-isatty"
)

// Formats of the log.
const (
	LogAuto = "auto" // text on a terminal, JSON otherwise
	LogText = "text" // for people; coloured on a terminal unless NO_COLOR is set
	LogJSON = "json" // one object a line
)

// NewLogger makes a logger that writes to w. level is debug, info, warn or
// error; format is one of the Log constants. Anything else is an error.
func NewLogger(w io.Writer, level, format string) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, fmt.Errorf("log level %q is not known: use debug, info, warn or error", level)
	}
	terminal := IsTerminal(w)
	if format == LogAuto {
		format = LogJSON
		if terminal {
			format = LogText
		}
	}
	switch format {
	case LogJSON:
		return slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{Level: l})), nil
	case LogText:
		return slog.New(tint.NewTextHandler(w, &tint.Options{Level: l, TimeFormat: "15:04:05.000", NoColor: !Colours(w)})), nil
	default:
		return nil, fmt.Errorf("log format %q is not known: use auto, text or json", format)
	}
}

// IsTerminal reports whether w is a terminal.
func IsTerminal(w any) bool {
	f, ok := w.(*os.File)
	return ok && isatty.IsTerminal(f.Fd())
}

// Colours reports whether to write colours to w: a terminal, unless NO_COLOR
// is set to anything (https://no-color.org) or TERM is dumb.
func Colours(w any) bool {
	return IsTerminal(w) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
}
