package storage_test

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/pkg/problem"
	"github.com/crucible-eval/crucible/pkg/remote"
	"github.com/crucible-eval/crucible/storage"
)

func readAll(t testing.TB, resp *http.Response) string {
	t.Helper()
	defer func() { require.NoError(t, resp.Body.Close()) }()
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return string(body)
}

func createdAt(t testing.TB, b *storage.Backend) string {
	t.Helper()
	stats, err := b.Store.Stats(t.Context(), eval.DefaultProject)
	require.NoError(t, err)
	raw, err := json.Marshal(stats.OldestQueuedAt)
	require.NoError(t, err)
	return string(raw)
}

func TestTheStorageServiceRefusesWhatItDoesNotKnow(t *testing.T) {
	url := serve(t, open(t, storage.Config{Backend: storage.Memory}), storage.ServiceConfig{})
	for name, request := range map[string]struct {
		method, path, body string
		want               eval.Kind
	}{
		"unknown field":   {"POST", remote.StorePath + "get", `{"project":"default","id":"a","more":1}`, eval.KindInvalid},
		"malformed":       {"POST", remote.StorePath + "create", `{`, eval.KindInvalid},
		"wrong type":      {"POST", remote.StorePath + "due", `{"limit":"many"}`, eval.KindInvalid},
		"unknown method":  {"POST", remote.StorePath + "explode", `{}`, eval.KindNotFound},
		"bad range":       {"GET", remote.BlobsPath + "/" + strings.Repeat("a", 64) + "?offset=x", "", eval.KindInvalid},
		"no such blob":    {"GET", remote.BlobsPath + "/" + strings.Repeat("a", 64), "", eval.KindNotFound},
		"path as a blob":  {"GET", remote.BlobsPath + "/..%2f..%2fetc%2fpasswd", "", eval.KindInvalid},
		"negative offset": {"GET", remote.BlobsPath + "/" + strings.Repeat("a", 64) + "?offset=-1", "", eval.KindInvalid},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := http.NewRequestWithContext(t.Context(), request.method, url+request.path, strings.NewReader(request.body))
			require.NoError(t, err)
			r.Header.Set("Content-Type", "application/json")
			resp, err := client(t).Do(r)
			require.NoError(t, err)
			defer func() { require.NoError(t, resp.Body.Close()) }()
			require.Equal(t, request.want, eval.KindOf(problem.Decode(resp)))
		})
	}
}

func TestConfigurationsThatDoNotFit(t *testing.T) {
	for name, c := range map[string]struct {
		cfg  storage.Config
		want string
	}{
		"unknown backend":       {storage.Config{Backend: "oracle"}, "must be one of memory, file, sqlite, postgres"},
		"no folder":             {storage.Config{}, "data_dir"},
		"postgres without URL":  {storage.Config{Backend: storage.Postgres, DataDir: "x"}, "database_url"},
		"URL of another":        {storage.Config{Backend: storage.Memory, DatabaseURL: "postgres://x"}, "the backend is memory"},
		"URL that is none":      {storage.Config{DatabaseURL: "postgres://u:hunter2@host:port/x", DataDir: "x"}, "database URL cannot be read"},
		"blobs of another kind": {storage.Config{Backend: storage.Memory, BlobsURL: "ftp://x"}, "bucket"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := storage.Open(t.Context(), c.cfg, nil)
			require.ErrorContains(t, err, c.want)
			require.NotContains(t, err.Error(), "hunter2")
		})
	}
}
