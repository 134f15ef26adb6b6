// Package monitor shows asynqmon, the queue's own dashboard, at /monitor.
//
// asynqmon has no authentication and no guard of its own: credentials, the
// Host header and cross-site requests are checked by httpkit in front of it.
// Here its page gets a content security policy, its lists a bound, and what
// tasks carry is reduced to the evaluation's id.
package monitor

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"mime"
	"net/http"
	"net/url"
	"path"
	"regexp"
	"strconv"
	"strings"
	"sync"

	"github.com/hibiken/asynq"
	"github.com/hibiken/asynqmon"
	"github.com/labstack/echo/v4"
)

// Root is where the dashboard stands.
const Root = "/monitor"

const (
	// maxPage is the most tasks that one list shows.
	maxPage = 100
	// maxBody bounds the body of a request: lists of task ids.
	maxBody = 1 << 20
)

// Monitor is the dashboard. It holds connections to Redis: Close it.
type Monitor struct {
	handler *asynqmon.HTTPHandler
	policy  string
	once    sync.Once
}

// New returns the dashboard of the queues behind redis. readOnly makes it
// refuse every change.
func New(redis asynq.RedisConnOpt, readOnly bool) *Monitor {
	m := &Monitor{handler: asynqmon.New(asynqmon.Options{
		RootPath: Root, RedisConnOpt: redis, ReadOnly: readOnly,
		PayloadFormatter: asynqmon.PayloadFormatterFunc(func(_ string, payload []byte) string { return redact(payload) }),
		ResultFormatter:  asynqmon.ResultFormatterFunc(func(_ string, result []byte) string { return redact(result) }),
	})}
	m.policy = contentPolicy(m.index())
	return m
}

// Close ends the connections to Redis. Closing twice is fine.
func (m *Monitor) Close() (err error) {
	m.once.Do(func() { err = m.handler.Close() })
	return err
}

// Routes adds the dashboard.
func (m *Monitor) Routes(e *echo.Echo) {
	e.Any(Root, m.serve)
	e.Any(Root+"/*", m.serve)
}

func (m *Monitor) serve(c echo.Context) error {
	r := c.Request()
	h := c.Response().Header()
	h.Set("Content-Security-Policy", m.policy)
	h.Set("Cache-Control", "no-cache")
	r.Body = http.MaxBytesReader(c.Response(), r.Body, maxBody)
	capSize(r.URL)
	m.handler.ServeHTTP(typed{c.Response(), r.URL.Path}, r)
	return nil
}

// capSize bounds the page that a list asks for: asynqmon takes any number.
func capSize(u *url.URL) {
	q := u.Query()
	if !q.Has("size") {
		return
	}
	if n, err := strconv.Atoi(q.Get("size")); err != nil || n < 1 || n > maxPage {
		q.Set("size", strconv.Itoa(maxPage))
		u.RawQuery = q.Encode()
	}
}

// redact shows which evaluation a task is about, and nothing else of it.
func redact(payload []byte) string {
	if len(payload) == 0 {
		return ""
	}
	var task struct {
		ID string `json:"id"`
	}
	if json.Unmarshal(payload, &task) == nil && task.ID != "" {
		return "evaluation " + task.ID
	}
	return fmt.Sprintf("%d bytes, not shown", len(payload))
}

var inlineScript = regexp.MustCompile(`(?s)<script>(.*?)</script>`)

// contentPolicy allows the page its own files, and exactly the scripts that
// stand in it.
func contentPolicy(index []byte) string {
	scripts := []string{"'self'"}
	for _, found := range inlineScript.FindAllSubmatch(index, -1) {
		sum := sha256.Sum256(found[1])
		scripts = append(scripts, "'sha256-"+base64.StdEncoding.EncodeToString(sum[:])+"'")
	}
	return strings.Join([]string{
		"default-src 'none'", "script-src " + strings.Join(scripts, " "), "style-src 'self' 'unsafe-inline'",
		"img-src 'self' data:", "font-src 'self' data:", "connect-src 'self'", "manifest-src 'self'",
		"base-uri 'none'", "form-action 'none'", "frame-ancestors 'none'",
	}, "; ")
}

// index is the page as asynqmon renders it.
func (m *Monitor) index() []byte {
	var w recorder
	m.handler.ServeHTTP(&w, &http.Request{Method: http.MethodGet, URL: &url.URL{Path: Root + "/"}, Header: http.Header{}})
	return w.Bytes()
}

type recorder struct {
	bytes.Buffer
	header http.Header
}

func (r *recorder) Header() http.Header {
	if r.header == nil {
		r.header = http.Header{}
	}
	return r.header
}

func (r *recorder) WriteHeader(int) {}

// typed names the type of files by their suffix. asynqmon guesses it from
// their content, takes pictures and styles for text, and browsers that may
// not sniff then refuse them.
type typed struct {
	http.ResponseWriter
	path string
}

func (t typed) WriteHeader(status int) {
	t.name()
	t.ResponseWriter.WriteHeader(status)
}

func (t typed) Write(p []byte) (int, error) {
	t.name()
	return t.ResponseWriter.Write(p)
}

func (t typed) name() {
	if !strings.Contains(t.path, "/static/") && path.Ext(t.path) != ".json" && path.Ext(t.path) != ".ico" {
		return
	}
	if kind := mime.TypeByExtension(path.Ext(t.path)); kind != "" {
		t.Header().Set("Content-Type", kind)
	}
}
