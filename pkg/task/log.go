package task

import (
	"fmt"
	"log/slog"
)

// quiet turns what asynq says into slog: its informational lines are details of ours.
type quiet struct{ log *slog.Logger }

func (q quiet) Debug(...any)      {}
func (q quiet) Info(args ...any)  { q.log.Debug("asynq: " + fmt.Sprint(args...)) }
func (q quiet) Warn(args ...any)  { q.log.Debug("asynq: " + fmt.Sprint(args...)) }
func (q quiet) Error(args ...any) { q.log.Warn("asynq: " + fmt.Sprint(args...)) }
func (q quiet) Fatal(args ...any) { q.log.Error("asynq: " + fmt.Sprint(args...)) }
