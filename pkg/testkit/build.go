package testkit

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// Build builds programs as they are shipped, static and without the race
// detector, into a folder. Packages are named as seen from the test's own.
func Build(folder string, packages ...string) error {
	cmd := exec.Command("go", append([]string{"build", "-ldflags=-s -w", "-o", folder + "/"}, packages...)...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build %v: %w\n%s", packages, err, out)
	}
	return nil
}

// programsEnv names the folder of the built programs, also to a test that
// starts its own binary again, as another user perhaps.
const programsEnv = "CRUCIBLE_TEST_PROGRAMS"

// Program is the path of one that BuildPrograms has built.
func Program(name string) string { return filepath.Join(os.Getenv(programsEnv), name) }

// BuildPrograms builds programs for a TestMain, where any user may start
// them. What it returns removes them; it is never nil.
func BuildPrograms(packages ...string) (remove func(), err error) {
	if os.Getenv(programsEnv) != "" {
		return func() {}, nil
	}
	folder, err := os.MkdirTemp("", "programs")
	if err != nil {
		return func() {}, err
	}
	remove = func() { _ = os.RemoveAll(folder) }
	if err := os.Chmod(folder, 0o755); err != nil {
		return remove, err
	}
	if err := Build(folder, packages...); err != nil {
		return remove, err
	}
	return remove, os.Setenv(programsEnv, folder)
}
