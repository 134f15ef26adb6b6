package cli

import (
	"fmt"
	"os"
	"time"

	"github.com/crucible-eval/crucible/cmd/internal/platform"
	"github.com/crucible-eval/crucible/storage"
)

// MigrateCmd brings the database up to date.
type MigrateCmd struct {
	platform.Keep
	Status bool `help:"Only print which steps are done."`
}

// Run implements a kong command.
func (c *MigrateCmd) Run(s *session) error {
	cfg, err := c.Storage(true)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(cfg.DataDir, 0o700); err != nil && cfg.DataDir != "" {
		return err
	}
	do := storage.Migrate
	if c.Status {
		do = storage.MigrationStatus
	}
	steps, err := do(s.ctx, cfg)
	if err != nil {
		return err
	}
	if s.json {
		return writeJSON(s.stdout, map[string]any{"migrations": steps})
	}
	rows := make([][]string, len(steps))
	for i, m := range steps {
		at := "still to come"
		if m.AppliedAt != nil {
			at = m.AppliedAt.Local().Format(time.RFC3339)
		}
		rows[i] = []string{fmt.Sprint(m.Version), m.Name, at}
	}
	if len(rows) == 0 {
		fmt.Fprintln(s.stdout, "this backend has no migrations")
		return nil
	}
	return table(s.stdout, "VERSION\tNAME\tDONE", rows)
}
