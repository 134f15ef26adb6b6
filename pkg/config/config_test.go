package config_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/alecthomas/kong"
	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/pkg/config"
)

type grammar struct {
	LogLevel string `env:"CRUCIBLE_LOG_LEVEL" default:"info" help:"How much to log."`
	Up       struct {
		Listen   string          `env:"CRUCIBLE_LISTEN" default:"127.0.0.1:8080" help:"Where to listen."`
		Redis    config.URL      `name:"redis-url" env:"CRUCIBLE_REDIS_URL" help:"The queue."`
		Keys     []config.Secret `name:"api-key" env:"CRUCIBLE_API_KEYS" help:"Keys."`
		Wait     time.Duration   `env:"CRUCIBLE_WAIT" default:"15s" help:"How long."`
		Body     config.Size     `env:"CRUCIBLE_BODY" default:"8MiB" help:"How much."`
		Unsafe   bool            `env:"CRUCIBLE_UNSAFE" help:"Whether."`
		NoWhere  string          `help:"A flag that is no setting."`
		EnvAlone string          `env:"CRUCIBLE_ENV_ALONE" nofile:"" help:"Not in files."`
	} `cmd:""`
	Worker struct {
		Listen string `env:"CRUCIBLE_LISTEN" default:"127.0.0.1:8081" help:"Where to listen."`
	} `cmd:""`
}

func parse(t *testing.T, yaml string, args ...string) (*grammar, *kong.Context, error) {
	t.Helper()
	g := &grammar{}
	file, err := config.Parse("test.yaml", []byte(yaml))
	require.NoError(t, err)
	app, err := kong.New(g, kong.Resolvers(file), kong.Exit(func(int) {}))
	require.NoError(t, err)
	ctx, err := app.Parse(args)
	return g, ctx, err
}

func TestFlagBeatsEnvironmentBeatsFileBeatsDefault(t *testing.T) {
	for _, tt := range []struct {
		name, file, env, flag, want string
	}{
		{"default", "", "", "", "127.0.0.1:8080"},
		{"file", "listen: f:1", "", "", "f:1"},
		{"environment over file", "listen: f:1", "e:1", "", "e:1"},
		{"flag over environment", "listen: f:1", "e:1", "c:1", "c:1"},
		{"flag over file", "listen: f:1", "", "c:1", "c:1"},
		{"the command's section over the top", "listen: f:1\nup: {listen: f:2}\nworker: {listen: f:3}", "", "", "f:2"},
		{"environment over section", "up: {listen: f:2}", "e:1", "", "e:1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.env != "" {
				t.Setenv("CRUCIBLE_LISTEN", tt.env)
			}
			args := []string{"up"}
			if tt.flag != "" {
				args = append(args, "--listen", tt.flag)
			}
			g, _, err := parse(t, tt.file, args...)
			require.NoError(t, err)
			require.Equal(t, tt.want, g.Up.Listen)
		})
	}
}

func TestFileValuesAreReadLikeFlags(t *testing.T) {
	g, _, err := parse(t, "wait: 1m30s\nbody: 64KiB\nunsafe: true\napi_key: [a, 12]\nlog_level: debug\n", "up")
	require.NoError(t, err)
	require.Equal(t, 90*time.Second, g.Up.Wait)
	require.Equal(t, config.Size(64<<10), g.Up.Body)
	require.True(t, g.Up.Unsafe)
	require.Equal(t, []config.Secret{"a", "12"}, g.Up.Keys)
	require.Equal(t, "debug", g.LogLevel)
}

func TestFilesWithMistakesAreRefused(t *testing.T) {
	for _, tt := range []struct{ name, file, want string }{
		{"unknown key", "lissten: x", "test.yaml: lissten is not a setting"},
		{"unknown key in a section", "worker: {redis_url: x}", "worker.redis_url is not a setting"},
		{"a flag that is no setting", "no_where: x", "no_where is not a setting"},
		{"not for files", "env_alone: x", "env_alone is not a setting"},
		{"wrong type", "wait: soon", "--wait"},
		{"bad size", "body: much", "is not a size"},
		{"redacted list", "api_key: [REDACTED]", "api_key is redacted"},
		{"redacted password", "redis_url: redis://:REDACTED@h/0", "redis_url is redacted"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, _, err := parse(t, tt.file, "up")
			require.ErrorContains(t, err, tt.want)
		})
	}
	_, err := config.Parse("x.yaml", []byte("a: [\n"))
	require.ErrorContains(t, err, "configuration file x.yaml")
	_, err = config.Parse("x.yaml", []byte("a: 1\n---\nb: 2\n"))
	require.ErrorContains(t, err, "only one YAML document")
	_, err = config.Load(filepath.Join(t.TempDir(), "none.yaml"))
	require.ErrorIs(t, err, os.ErrNotExist)
}

func TestPrintRoundTrips(t *testing.T) {
	want, ctx, err := parse(t, "", "up", "--listen=h:1", "--redis-url=redis://u:p%40ss@h:1/0", "--api-key=k1", "--api-key=k2",
		"--wait=90s", "--body=1536KiB", "--unsafe", "--log-level=warn")
	require.NoError(t, err)

	var open strings.Builder
	require.NoError(t, config.Print(&open, ctx.Selected(), true))
	got, _, err := parse(t, open.String(), "up")
	require.NoError(t, err)
	require.Equal(t, want, got)

	var hidden strings.Builder
	require.NoError(t, config.Print(&hidden, ctx.Selected(), false))
	for _, secret := range []string{"p%40ss", "p@ss", "k1", "k2"} {
		require.NotContains(t, hidden.String(), secret)
	}
	require.Contains(t, hidden.String(), "redis://u:REDACTED@h:1/0")
	_, _, err = parse(t, hidden.String(), "up")
	require.ErrorContains(t, err, "--show-secrets")
}

func TestSecretsNeverShow(t *testing.T) {
	type all struct {
		S config.Secret
		U config.URL
	}
	v := all{"hush", "postgres://me:hush@h/db?password=hush"}
	asJSON, err := json.Marshal(v)
	require.NoError(t, err)
	for _, text := range []string{fmt.Sprint(v), fmt.Sprintf("%+v %#v %s %q", v, v, v, v), string(asJSON),
		config.URL("postgres:///db?password=hush&x=1").String(), config.URL("::hush").String()} {
		require.NotContains(t, text, "hush")
	}
	require.Equal(t, "hush", v.S.Reveal())
	require.Equal(t, "redis://h:1/0", config.URL("redis://h:1/0").String())
}

func TestSizes(t *testing.T) {
	for text, want := range map[string]config.Size{
		"0": 0, "17": 17, "1KiB": 1024, "64mib": 64 << 20, "1.5 GiB": 3 << 29, "2MB": 2e6, "3k": 3072, "5b": 5,
	} {
		got, err := config.ParseSize(text)
		require.NoError(t, err, text)
		require.Equal(t, want, got, text)
		again, err := config.ParseSize(got.String())
		require.NoError(t, err)
		require.Equal(t, got, again, "round trip of %s", text)
	}
	for _, text := range []string{"", "-1", "MiB", "1 fortnight", "NaN", "1e300", "infGiB"} {
		_, err := config.ParseSize(text)
		require.Error(t, err, text)
	}
}

func TestMarkdownListsEachSettingOnce(t *testing.T) {
	_, ctx, err := parse(t, "", "up")
	require.NoError(t, err)
	var out strings.Builder
	require.NoError(t, config.Markdown(&out, ctx.Model.Node))
	require.Equal(t, 1, strings.Count(out.String(), "`CRUCIBLE_LISTEN`"))
	require.Contains(t, out.String(), "| `listen` | `--listen` | `CRUCIBLE_LISTEN` | `depends on the command` | Where to listen. (up, worker) |")
	require.NotContains(t, out.String(), "no_where")
}
