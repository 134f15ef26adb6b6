package callback_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/pkg/testkit"
	example "github.com/crucible-eval/crucible/worker/internal/callback/testdata/receiver"
)

// sample is the first example in docs/callbacks.md in this language.
func sample(t *testing.T, language string) string {
	t.Helper()
	raw, err := os.ReadFile("../../../docs/callbacks.md")
	require.NoError(t, err)
	found := regexp.MustCompile("(?s)```" + language + "\n(.*?)```").FindStringSubmatch(string(raw))
	require.NotNil(t, found)
	return found[1]
}

// delivered is a request as a deliverer makes it.
func delivered(t *testing.T) received {
	r, to := newRig(t), newReceiver(t, nil)
	key := r.ended(to.at("receiver.test"))
	r.deliverer(nil, nil)
	r.until(key, "delivered", status(eval.CallbackDelivered))
	return to.requests()[0]
}

// trial is a program that reads a request and says whether the example takes it.
type trial struct {
	Secret  string            `json:"secret"`
	Headers map[string]string `json:"headers"`
	Body    string            `json:"body"`
}

func (r received) trial(secret string) trial {
	t := trial{Secret: secret, Headers: map[string]string{}, Body: string(r.body)}
	for name := range r.header {
		t.Headers[strings.ToLower(name)] = r.header.Get(name)
	}
	return t
}

// tries are requests and whether a receiver must take them.
func tries(t *testing.T) map[string]struct {
	trial
	want string
} {
	got := delivered(t)
	changed, old := got.trial(newSecret), got.trial(newSecret)
	changed.Body += " "
	old.Headers["webhook-timestamp"] = "1700000000"
	return map[string]struct {
		trial
		want string
	}{
		"the first secret": {got.trial(oldSecret), "yes"}, "the second secret": {got.trial(newSecret), "yes"},
		"another secret": {got.trial("whsec_" + strings.Repeat("A", 32)), "no"}, "another body": {changed, "no"}, "another time": {old, "no"},
	}
}

func run(t *testing.T, input trial, dir, program string, args ...string) string {
	t.Helper()
	raw, err := json.Marshal(input)
	require.NoError(t, err)
	cmd := exec.CommandContext(t.Context(), program, args...)
	cmd.Dir, cmd.Stdin = dir, strings.NewReader(string(raw))
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	return strings.TrimSpace(string(out))
}

func TestThePythonOfTheDocsVerifies(t *testing.T) {
	python, err := exec.LookPath("python3")
	if err != nil {
		testkit.Skip(t, "python3", "python3")
	}
	file := filepath.Join(t.TempDir(), "receiver.py")
	require.NoError(t, os.WriteFile(file, []byte(sample(t, "python")+`
import json, sys
r = json.load(sys.stdin)
print("yes" if verify(r["secret"], r["headers"], r["body"].encode()) else "no")
`), 0o600))
	for name, try := range tries(t) {
		require.Equal(t, try.want, run(t, try.trial, "", python, file), name)
	}
}

// The Go of the docs is the file beside this one, which is tested here.
func TestTheGoOfTheDocsVerifies(t *testing.T) {
	raw, err := os.ReadFile("testdata/receiver/receiver.go")
	require.NoError(t, err)
	require.Equal(t, string(raw), sample(t, "go"), "docs/callbacks.md and testdata/receiver/receiver.go differ")
	for name, try := range tries(t) {
		var taken []byte
		h := http.Header{}
		for k, v := range try.Headers {
			h.Set(k, v)
		}
		code := send(t, try.Secret, h, try.Body, func(e []byte) { taken = e })
		require.Equal(t, try.want == "yes", code == http.StatusOK, name)
		require.Equal(t, try.want == "yes", taken != nil, name)
	}
}

// send gives a request to the example's handler.
func send(t *testing.T, secret string, h http.Header, body string, ended func([]byte)) int {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/", strings.NewReader(body))
	r.Header = h
	w := httptest.NewRecorder()
	example.Handler(secret, ended).ServeHTTP(w, r)
	return w.Code
}
