package main

import (
	"path"
	"slices"
	"strings"
)

// modulePath is what all import paths of this repository begin with.
const modulePath = "github.com/crucible-eval/crucible/"

// rule forbids some imports in some files.
type rule struct {
	says   string
	breaks func(f file, importPath string) bool
}

// services are the modules that know pkg and themselves, nothing else. Each can be deployed, tested and deleted
// alone, because no other one knows it.
var services = []string{"api", "worker", "executor", "storage", "frontend"}

// testLibraries have no place in a program: they pull in flags, panics and size, and hide missing error handling.
var testLibraries = []string{
	"testing", // with testing/synctest and the others below it
	"net/http/httptest",
	"github.com/stretchr/testify",
	"github.com/google/go-cmp",
	"github.com/rogpeppe/go-internal/testscript",
	"go.uber.org/goleak",
	"pgregory.net/rapid",
}

// asynqUsers are the packages that may import asynq, with the reason. A file outside them that needs it belongs
// into pkg/task: what the queue is made of has to be decided in one place.
var asynqUsers = map[string]string{
	"pkg/task":             "it is our vocabulary over asynq",
	"api/internal/monitor": "asynqmon takes its Redis connection as an asynq type",
}

var rules = []rule{
	{
		says: "pkg/eval, the domain, imports the standard library only",
		breaks: func(f file, i string) bool {
			return f.dir() == "pkg/eval" && !f.isTest() && !isStandard(i)
		},
	},
	{
		says: "what the services share knows no service",
		breaks: func(f file, i string) bool {
			return topOf(f.path) == "pkg" && ours(i) != "" && ours(i) != "pkg"
		},
	},
	{
		says: "a service imports pkg and itself, never another service",
		breaks: func(f file, i string) bool {
			own := topOf(f.path)
			return slices.Contains(services, own) && ours(i) != "" && ours(i) != "pkg" && ours(i) != own
		},
	},
	{
		says: "only tests import a test library or a package made for tests",
		breaks: func(f file, i string) bool {
			if f.isTest() {
				return false
			}
			return slices.ContainsFunc(testLibraries, func(library string) bool { return within(i, library) }) ||
				ours(i) != "" && isTestPackage(i)
		},
	},
	{
		says: "only pkg/task knows asynq",
		breaks: func(f file, i string) bool {
			return within(i, "github.com/hibiken/asynq") && asynqUsers[f.dir()] == ""
		},
	},
	{
		says: "only the API shows asynqmon",
		breaks: func(f file, i string) bool {
			return within(i, "github.com/hibiken/asynqmon") && topOf(f.path) != "api"
		},
	},
	{
		says: "Echo stays in pkg/httpkit, internal/rest and api/internal",
		breaks: func(f file, i string) bool {
			return within(i, "github.com/labstack/echo") && f.dir() != "pkg/httpkit" &&
				!strings.Contains(f.dir()+"/", "/internal/rest/") && !within(f.dir(), "api/internal")
		},
	},
}

// isStandard is true for the standard library, the only one whose import paths begin without a dot.
func isStandard(importPath string) bool {
	first, _, _ := strings.Cut(importPath, "/")
	return !strings.Contains(first, ".")
}

// ours is the module of an import from this repository, such as "pkg", or "" for any other import.
func ours(importPath string) string {
	below, found := strings.CutPrefix(importPath, modulePath)
	if !found {
		return ""
	}
	return topOf(below)
}

func topOf(name string) string {
	first, _, _ := strings.Cut(path.Clean(name), "/")
	return first
}

// within is true for the folder or import path itself and all below it.
func within(name, parent string) bool { return name == parent || strings.HasPrefix(name, parent+"/") }
