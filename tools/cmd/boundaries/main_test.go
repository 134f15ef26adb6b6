package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// write lays out files, given as path -> imports, in a folder of the test's.
func write(t *testing.T, files map[string][]string) string {
	t.Helper()
	root := t.TempDir()
	for name, imports := range files {
		var source strings.Builder
		source.WriteString("package p\n")
		for _, i := range imports {
			source.WriteString("import _ \"" + i + "\"\n")
		}
		full := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(full, []byte(source.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestEachRule(t *testing.T) {
	const us = "github.com/crucible-eval/crucible/"
	tests := []struct {
		name, file, imports string
		broken              string // part of the rule; "" when it is allowed
	}{
		{"domain with the standard library", "pkg/eval/eval.go", "net/http", ""},
		{"domain with a third party", "pkg/eval/eval.go", "github.com/google/uuid", "standard library only"},
		{"domain with a sibling", "pkg/eval/eval.go", us + "pkg/problem", "standard library only"},
		{"domain's test with a third party", "pkg/eval/eval_test.go", "github.com/stretchr/testify/require", ""},
		{"domain on another system", "pkg/eval/eval_windows.go", "golang.org/x/sys/windows", "standard library only"},
		{"shared code with a service", "pkg/memory/memory.go", us + "storage", "knows no service"},
		{"shared code's test with a service", "pkg/memory/memory_test.go", us + "storage", "knows no service"},
		{"shared code with shared code", "pkg/memory/memory.go", us + "pkg/eval", ""},
		{"service with shared code", "api/api.go", us + "pkg/eval", ""},
		{"service with itself", "api/api.go", us + "api/internal/rest", ""},
		{"service with another service", "api/api.go", us + "worker", "never another service"},
		{"service with the program", "worker/worker.go", us + "cmd/crucible", "never another service"},
		{"service's test with another service", "worker/worker_test.go", us + "executor", "never another service"},
		{"program with all services", "cmd/crucible/up.go", us + "worker", ""},
		{"program with testing", "cmd/crucible/up.go", "testing", "only tests import"},
		{"program with synctest", "cmd/crucible/up.go", "testing/synctest", "only tests import"},
		{"program with a test library", "cmd/crucible/up.go", "github.com/stretchr/testify/require", "only tests import"},
		{"program with testkit", "cmd/crucible/up.go", us + "pkg/testkit", "only tests import"},
		{"program with a suite", "cmd/crucible/up.go", us + "pkg/eval/evaltest", "only tests import"},
		{"test with testkit", "cmd/crucible/up_test.go", us + "pkg/testkit", ""},
		{"suite with testing", "pkg/eval/evaltest/store.go", "testing", ""},
		{"asynq in its place", "pkg/task/task.go", "github.com/hibiken/asynq", ""},
		{"asynq in the worker", "worker/worker.go", "github.com/hibiken/asynq", "only pkg/task"},
		{"asynq for the monitor", "api/internal/monitor/monitor.go", "github.com/hibiken/asynq", ""},
		{"asynq elsewhere in the API", "api/internal/rest/rest.go", "github.com/hibiken/asynq", "only pkg/task"},
		{"asynqmon in the API", "api/internal/monitor/monitor.go", "github.com/hibiken/asynqmon", ""},
		{"asynqmon in the worker", "worker/worker.go", "github.com/hibiken/asynqmon", "only the API"},
		{"Echo in httpkit", "pkg/httpkit/httpkit.go", "github.com/labstack/echo/v4", ""},
		{"Echo in a service's rest", "executor/internal/rest/runs.go", "github.com/labstack/echo/v4", ""},
		{"Echo in the API's inside", "api/internal/live/live.go", "github.com/labstack/echo/v4/middleware", ""},
		{"Echo in a service's face", "api/api.go", "github.com/labstack/echo/v4", "Echo stays"},
		{"Echo in the sandbox", "executor/internal/sandbox/box.go", "github.com/labstack/echo/v4", "Echo stays"},
		{"what is made to be wrong", "pkg/eval/testdata/wrong.go", "github.com/google/uuid", ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			// A second file, so that there is one even where the first is skipped.
			root := write(t, map[string][]string{test.file: {test.imports}, "pkg/eval/doc.go": nil})
			var output bytes.Buffer
			err := run([]string{root}, &output)
			if test.broken == "" {
				if err != nil {
					t.Fatalf("want it allowed, got %v:\n%s", err, &output)
				}
				return
			}
			if err == nil {
				t.Fatal("want it refused, but it passed")
			}
			if !strings.Contains(output.String(), test.broken) || !strings.HasPrefix(output.String(), test.file+":2: ") {
				t.Fatalf("want %s:2 and %q in the output, got:\n%s", test.file, test.broken, &output)
			}
		})
	}
}

func TestAnEmptyTreeIsAnError(t *testing.T) {
	if err := run([]string{t.TempDir()}, &bytes.Buffer{}); err == nil {
		t.Fatal("nothing was checked, and it passed")
	}
}

func TestThisRepositoryKeepsTheRules(t *testing.T) {
	var output bytes.Buffer
	if err := run([]string{"../../.."}, &output); err != nil {
		t.Fatalf("%v\n%s", err, &output)
	}
}
