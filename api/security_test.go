package api_test

import (
	"bytes"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/api"
	"github.com/crucible-eval/crucible/pkg/eval"
)

// stalled is a body of which so many bytes come, and then nothing more until
// it is closed.
type stalled struct {
	left   int
	closed chan struct{}
	once   sync.Once
}

func newStalled(size int) *stalled { return &stalled{left: size, closed: make(chan struct{})} }

var filler = bytes.Repeat([]byte("a"), 64<<10)

func (s *stalled) Read(p []byte) (int, error) {
	if s.left == 0 {
		<-s.closed
		return 0, io.ErrUnexpectedEOF
	}
	n := copy(p[:min(len(p), s.left)], filler)
	s.left -= n
	return n, nil
}

func (s *stalled) Close() error { s.once.Do(func() { close(s.closed) }); return nil }

func TestBadBodiesAreNamedAndStoreNothing(t *testing.T) {
	p := start(t)
	for name, test := range map[string]struct {
		body   string
		fields []string
	}{
		"unknown field":           {`{"language":"python","code":"1","colour":"red"}`, []string{"colour"}},
		"unknown field below":     {`{"language":"python","code":"1","limits":{"wall":1}}`, []string{"limits.wall"}},
		"unknown field in a test": {`{"language":"python","code":"1","tests":[{"stdin":""},{"input":"1"}]}`, []string{"tests[1].input"}},
		"several at once":         {`{"langage":"python","code":5,"limits":{"wall_ms":"1"}}`, []string{"code", "langage", "limits.wall_ms"}},
		"unknown language":        {`{"language":"klingon","code":"1"}`, []string{"language"}},
		"language not available":  {`{"language":"cobol","code":"1"}`, []string{"language"}},
		"no language":             {`{"code":"1"}`, []string{"language"}},
		"empty code":              {`{"language":"python","code":""}`, []string{"code"}},
		"no code":                 {`{"language":"python"}`, []string{"code"}},
		"code and files":          {`{"language":"python","code":"1","files":{"a.py":"1"}}`, []string{"files"}},
		"path out of the box":     {`{"language":"python","files":{"../a.py":"1"}}`, []string{`files["../a.py"]`}},
		"negative limit":          {`{"language":"python","code":"1","limits":{"wall_ms":-5}}`, []string{"limits.wall_ms"}},
		"absurd limit":            {`{"language":"python","code":"1","limits":{"memory_bytes":1e308}}`, []string{"limits.memory_bytes"}},
		"beyond the policy":       {`{"language":"python","code":"1","limits":{"wall_ms":99999999,"processes":100000}}`, []string{"limits.wall_ms", "limits.processes"}},
		"fraction":                {`{"language":"python","code":"1","limits":{"wall_ms":1.5}}`, []string{"limits.wall_ms"}},
		"limits is no object":     {`{"language":"python","code":"1","limits":[]}`, []string{"limits"}},
		"bad base64":              {`{"language":"python","code":{"data":"%%%","encoding":"base64"}}`, []string{"code"}},
		"bad encoding":            {`{"language":"python","code":"1","stdin":{"data":"x","encoding":"rot13"}}`, []string{"stdin"}},
		"bad priority":            {`{"language":"python","code":"1","priority":"now"}`, []string{"priority"}},
		"bad retry policy":        {`{"language":"python","code":"1","retry_policy":"never"}`, []string{"retry_policy"}},
		"bad time":                {`{"language":"python","code":"1","run_at":"tomorrow"}`, []string{"run_at"}},
		"bad duration":            {`{"language":"python","code":"1","expires_in":"soon"}`, []string{"expires_in"}},
		"duration as a number":    {`{"language":"python","code":"1","expires_in":90}`, []string{"expires_in"}},
		"negative duration":       {`{"language":"python","code":"1","expires_in":"-1s"}`, []string{"expires_in"}},
		"absurd duration":         {`{"language":"python","code":"1","expires_in":"9999h"}`, []string{"expires_in"}},
		"bad env":                 {`{"language":"python","code":"1","env":{"A":1}}`, []string{`env["A"]`}},
		"list":                    {`[]`, []string{"body"}},
		"null":                    {`null`, []string{"body"}},
		"string":                  {`"python"`, []string{"body"}},
	} {
		t.Run(name, func(t *testing.T) { p.post("/api/v1/evaluations", test.body).invalid(test.fields...) })
	}
	for name, body := range map[string]string{"empty": "", "cut": `{"language":"py`, "no JSON": "language=python", "two values": hello + hello, "not UTF-8 JSON": "{\"language\":\xff}"} {
		t.Run(name, func(t *testing.T) {
			p.post("/api/v1/evaluations", body).problem(http.StatusBadRequest, eval.KindInvalid)
			p.post("/api/v1/evaluations/batch", body).problem(http.StatusBadRequest, eval.KindInvalid)
		})
	}
	form := http.Header{"Content-Type": {"application/x-www-form-urlencoded"}}
	p.send("POST", "/api/v1/evaluations", hello, form).problem(http.StatusUnsupportedMediaType, eval.KindMediaType)
	p.post("/api/v1/evaluations?dry_run=1", hello).invalid("dry_run")
	require.Zero(t, p.stored())
	require.Empty(t, p.queue.dispatches())
}

func TestLargeBodiesAreRefusedEarly(t *testing.T) {
	p := start(t)
	for path, limit := range map[string]int{"/api/v1/evaluations": 8 << 20, "/api/v1/evaluations/batch": 32 << 20} {
		refused := func(said int64, begin string, body *stalled, header http.Header) {
			t.Helper()
			defer func() { _ = body.Close() }()
			req := p.request("POST", path, nil, header)
			req.Body = struct {
				io.Reader
				io.Closer
			}{io.MultiReader(strings.NewReader(begin), body), body}
			req.ContentLength = said
			resp, err := checked.Do(req)
			require.NoError(t, err)
			defer func() { _ = resp.Body.Close() }()
			require.Equal(t, http.StatusRequestEntityTooLarge, resp.StatusCode)
		}
		// The length is said: the answer comes before any of it.
		unread := newStalled(1)
		refused(50<<20, "", unread, http.Header{"Expect": {"100-continue"}})
		require.Equal(t, 1, unread.left)
		refused(50<<20, "", newStalled(0), nil)
		// It is not said: the answer comes at the limit, not at the end.
		begin := `{"language":"python","code":"`
		if strings.HasSuffix(path, "batch") {
			begin = `{"evaluations":[` + begin
		}
		refused(-1, begin, newStalled(limit+1), nil)
	}
	large := `{"language":"python","code":"` + strings.Repeat("#", 900_000) + `"}`
	require.Equal(t, http.StatusAccepted, p.post("/api/v1/evaluations", large).Code)
	require.Equal(t, 1, p.stored())
}

func TestOtherSitesCannotRunCode(t *testing.T) {
	p := start(t)
	for _, header := range []http.Header{
		{"Sec-Fetch-Site": {"cross-site"}},
		{"Sec-Fetch-Site": {"same-site"}},
		{"Origin": {"https://evil.example"}},
		{"Origin": {"null"}},
	} {
		for _, path := range []string{"/api/v1/evaluations", "/api/v1/queues/low/pause", "/monitor/api/queues/low:pause"} {
			require.Equal(t, http.StatusForbidden, p.send("POST", path, hello, header).Code, "%s %v", path, header)
		}
	}
	for _, path := range []string{"/", "/api/v1/evaluations", "/monitor"} {
		req := p.request("GET", path, nil, nil)
		req.Host = "evil.example" // DNS rebinding
		resp, err := checked.Do(req)
		require.NoError(t, err)
		_ = resp.Body.Close()
		require.Equal(t, http.StatusForbidden, resp.StatusCode, path)
	}
	require.Zero(t, p.stored())
	require.Equal(t, http.StatusAccepted, p.send("POST", "/api/v1/evaluations", hello, http.Header{"Sec-Fetch-Site": {"same-origin"}}).Code)
}

func TestKeys(t *testing.T) {
	p := start(t, func(c *api.Config, _ *api.Deps) { c.APIKeys = []string{"ci:s3cret", "plain"} })
	for name, header := range map[string]http.Header{
		"none":            {},
		"wrong":           {"Authorization": {"Bearer wrong"}},
		"name":            {"Authorization": {"Bearer ci"}},
		"with its name":   {"Authorization": {"Bearer ci:s3cret"}},
		"empty":           {"Authorization": {"Bearer "}},
		"other scheme":    {"Authorization": {"Digest s3cret"}},
		"beginning of it": {"X-Api-Key": {"s3cre"}},
	} {
		t.Run(name, func(t *testing.T) {
			for _, path := range []string{"/", "/docs", "/metrics", "/monitor", "/monitor/api/queues", "/api/v1/evaluations", "/api/v1/events"} {
				r := p.send("GET", path, "", header)
				require.Equal(t, http.StatusUnauthorized, r.Code, path)
				require.NotEmpty(t, r.Header.Get("WWW-Authenticate"))
			}
			require.Equal(t, http.StatusUnauthorized, p.send("POST", "/api/v1/evaluations", hello, header).Code)
			require.Equal(t, http.StatusOK, p.send("GET", "/livez", "", header).Code)
		})
	}
	require.Zero(t, p.stored())
	for _, header := range []http.Header{
		{"Authorization": {"Bearer s3cret"}}, {"Authorization": {"bearer plain"}}, {"X-Api-Key": {"s3cret"}},
		{"Authorization": {"Basic YW55Ym9keTpzM2NyZXQ="}},
	} {
		require.Equal(t, http.StatusAccepted, p.send("POST", "/api/v1/evaluations", hello, header).Code)
		require.Equal(t, http.StatusOK, p.send("GET", "/monitor/api/queues", "", header).Code)
	}
}

func TestListeningForOthersNeedsKeys(t *testing.T) {
	p := start(t)
	deps := api.Deps{Store: p.store, Queue: p.queue}
	_, err := api.New(api.Config{Listen: "0.0.0.0:0"}, deps)
	require.ErrorContains(t, err, "without credentials")
	for _, c := range []api.Config{{Listen: "0.0.0.0:0", APIKeys: []string{"k"}}, {Listen: "0.0.0.0:0", AllowInsecure: true}} {
		_, err = api.New(c, deps)
		require.NoError(t, err)
	}
	_, err = api.New(api.Config{Listen: "127.0.0.1:0", APIKeys: []string{"name:"}}, deps)
	require.ErrorContains(t, err, "key")
}
