package main

import (
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"gopkg.in/yaml.v3"
)

// documented are the metrics that docs/observability.md explains.
func documented(t *testing.T) map[string]bool {
	page, err := os.ReadFile("../../docs/observability.md")
	require.NoError(t, err)
	names := map[string]bool{}
	for _, m := range regexp.MustCompile("(?m)^\\| `(crucible_[a-z_]+)` \\|").FindAllStringSubmatch(string(page), -1) {
		require.False(t, names[m[1]], "%s stands there twice", m[1])
		names[m[1]] = true
	}
	return names
}

// TestEveryMetricIsExplained: those that a platform serves, those that the
// source names, and none that there is not.
func TestEveryMetricIsExplained(t *testing.T) {
	explained := documented(t)
	resp, err := http.Get(start(t) + "/metrics")
	require.NoError(t, err)
	defer func() { _ = resp.Body.Close() }()
	served, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	for _, m := range regexp.MustCompile(`(?m)^# TYPE (crucible_[a-z_]+) `).FindAllStringSubmatch(string(served), -1) {
		require.True(t, explained[m[1]], "docs/observability.md does not explain %s", m[1])
	}

	named, prefixes := map[string]bool{}, []string{}
	literal := regexp.MustCompile(`"(crucible_[a-z_]+)"`)
	require.NoError(t, filepath.WalkDir("../..", func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		source, err := os.ReadFile(path)
		for _, m := range literal.FindAllStringSubmatch(string(source), -1) {
			if strings.HasSuffix(m[1], "_") {
				prefixes = append(prefixes, m[1])
				continue
			}
			named[m[1]] = true
		}
		return err
	}))
	for name := range named {
		require.True(t, explained[name], "docs/observability.md does not explain %s", name)
	}
	for name := range explained {
		there := named[name]
		for _, p := range prefixes {
			there = there || strings.HasPrefix(name, p)
		}
		require.True(t, there, "docs/observability.md explains %s, which there is not", name)
	}
}

// TestAlertsAskForMetricsThatThereAre reads the rules as Prometheus does,
// without its expressions: promtool checks those.
func TestAlertsAskForMetricsThatThereAre(t *testing.T) {
	raw, err := os.ReadFile("../../deployments/prometheus/alerts.yaml")
	require.NoError(t, err)
	var rules struct {
		Groups []struct {
			Name  string
			Rules []struct {
				Alert, Expr, For    string
				Labels, Annotations map[string]string
			}
		}
	}
	decoder := yaml.NewDecoder(strings.NewReader(string(raw)))
	decoder.KnownFields(true)
	require.NoError(t, decoder.Decode(&rules))
	explained, seen := documented(t), 0
	for _, g := range rules.Groups {
		for _, r := range g.Rules {
			require.NotEmpty(t, r.Annotations["summary"], r.Alert)
			require.NotEmpty(t, r.Annotations["action"], r.Alert)
			names := regexp.MustCompile(`crucible_[a-z_]+`).FindAllString(r.Expr, -1)
			require.NotEmpty(t, names, r.Alert)
			for _, name := range names {
				require.True(t, explained[strings.TrimSuffix(name, "_bucket")], "%s asks for %s", r.Alert, name)
				seen++
			}
		}
	}
	require.Greater(t, seen, 8)
}
