// Package httpkit is the only place that configures Echo: every service of
// Crucible listens, answers errors, and shows its health in the same way.
package httpkit

import (
	"cmp"
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"

	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/pkg/problem"
)

// Defaults of Options.
const (
	DefaultBodyLimit    = 8 << 20
	maxHeaderBytes      = 64 << 10
	readHeaderTimeout   = 10 * time.Second
	idleTimeout         = 2 * time.Minute
	healthCheckTimeout  = 2 * time.Second
	defaultBodyPatience = 30 * time.Second
	slowestBody         = 128 << 10 // bytes a second
)

// Options configure a Server. Only Name and Listen are required.
type Options struct {
	Name      string // of the service: api, executor, storage, worker
	Listen    string // host:port; port 0 takes a free one
	Logger    *slog.Logger
	Registry  *prometheus.Registry // served at /metrics, and given the server's own metrics
	BodyLimit int64                // bytes of a request's body; a route may raise it with BodyLimit

	// BodyPatience is how long a body may take to come, beyond what it takes at
	// 128 KiB a second; 0: 30 s.
	BodyPatience time.Duration

	// Tokens are the credentials that are accepted as Authorization: Bearer
	// or X-Api-Key. Without any, the server listens on loopback only, checks
	// the Host header and refuses cross-site requests.
	Tokens []string
	// AllowInsecure permits to listen elsewhere without tokens.
	AllowInsecure bool
	// AllowedHosts are accepted as Host besides loopback names and Listen's
	// own, when there are no tokens.
	AllowedHosts []string
	// Public says which paths need no credentials, besides /livez, /readyz
	// and /version.
	Public func(path string) bool

	Ready   func(context.Context) error // nil: always
	Live    func() error                // nil: always; an error means "makes no progress"
	Version string
}

// Server is an HTTP server that is a service.Service.
type Server struct {
	opt      Options
	log      *slog.Logger
	echo     *echo.Echo
	http     *http.Server
	listener net.Listener
	failed   chan error
	served   chan struct{}
	cancel   context.CancelFunc // ends the contexts of requests

	drain   chan struct{} // closed when shutting down
	drained sync.Once
	mu      sync.Mutex
	stopped bool
}

// New returns a server with its common routes; add yours to Echo before
// Start. It is an error to listen beyond loopback without credentials unless
// that is allowed.
func New(opt Options) (*Server, error) {
	opt.Logger = cmp.Or(opt.Logger, slog.New(slog.DiscardHandler))
	opt.BodyLimit = cmp.Or(opt.BodyLimit, int64(DefaultBodyLimit))
	opt.BodyPatience = cmp.Or(opt.BodyPatience, defaultBodyPatience)
	if opt.Registry == nil {
		opt.Registry = prometheus.NewRegistry()
	}
	host, _, err := net.SplitHostPort(opt.Listen)
	if err != nil {
		return nil, fmt.Errorf("listen address %q: want host:port, such as 127.0.0.1:8080: %w", opt.Listen, err)
	}
	if !isLoopback(host) && len(opt.Tokens) == 0 && !opt.AllowInsecure {
		return nil, fmt.Errorf("%s would listen on %s, where others can reach it, without credentials: "+
			"anybody could run code here; set an API key or token, listen on 127.0.0.1, or say --allow-insecure if something in front of it authenticates", opt.Name, opt.Listen)
	}
	s := &Server{opt: opt, log: opt.Logger, echo: echo.New(), failed: make(chan error, 1), served: make(chan struct{}), drain: make(chan struct{})}
	s.echo.HideBanner, s.echo.HidePort = true, true
	s.echo.HTTPErrorHandler = s.writeError
	s.echo.JSONSerializer = serializer{}
	m, err := newMetrics(opt.Registry)
	if err != nil {
		return nil, err
	}
	s.echo.Use(s.requestID, m.measure, s.recoverPanic, securityHeaders, s.authenticate, limitBody(opt.BodyLimit), bodyPatience(opt.BodyPatience))
	s.commonRoutes()
	return s, nil
}

// Echo returns the router to add routes to.
func (s *Server) Echo() *echo.Echo { return s.echo }

// Name implements service.Service.
func (s *Server) Name() string { return s.opt.Name }

// Failed implements service.Service.
func (s *Server) Failed() <-chan error { return s.failed }

// Addr is the address that the server listens on, once started.
func (s *Server) Addr() string {
	if s.listener == nil {
		return s.opt.Listen
	}
	return s.listener.Addr().String()
}

// URL is where to reach the server from this machine.
func (s *Server) URL() string {
	host, port, _ := net.SplitHostPort(s.Addr())
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return "http://" + net.JoinHostPort(host, port)
}

// Start listens and serves.
func (s *Server) Start(ctx context.Context) error {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", s.opt.Listen)
	if err != nil {
		return fmt.Errorf("%s cannot listen on %s; is another program there? choose another address with --listen: %w", s.opt.Name, s.opt.Listen, err)
	}
	s.listener = l
	base, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s.cancel = cancel
	quiet := func(r *http.Request) bool { // no spans for probes
		return r.URL.Path != "/livez" && r.URL.Path != "/readyz" && r.URL.Path != "/metrics"
	}
	s.http = &http.Server{
		Handler:           otelhttp.NewHandler(s.echo, s.opt.Name, otelhttp.WithFilter(quiet)),
		ReadHeaderTimeout: readHeaderTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		BaseContext:       func(net.Listener) context.Context { return base },
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	go func() {
		defer close(s.served)
		if err := s.http.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			s.failed <- err
		}
	}()
	s.log.Info("listening", "service", s.opt.Name, "url", s.URL())
	return nil
}

// Drain makes /readyz say no, so that load balancers look elsewhere; the
// server goes on serving until Stop.
func (s *Server) Drain() { s.drained.Do(func() { close(s.drain) }) }

// Draining is closed when the server shuts down: long streams end then.
func (s *Server) Draining() <-chan struct{} { return s.drain }

// Stop refuses new connections, waits for requests under way until ctx ends,
// then cuts them.
func (s *Server) Stop(ctx context.Context) error {
	s.Drain()
	s.mu.Lock()
	started := s.http != nil && !s.stopped
	s.stopped = true
	s.mu.Unlock()
	if !started {
		return nil
	}
	err := s.http.Shutdown(ctx)
	s.cancel()
	if err != nil {
		err = errors.Join(s.http.Close(), ignoreDeadline(err))
	}
	<-s.served
	return err
}

func ignoreDeadline(err error) error {
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

func (s *Server) isDraining() bool {
	select {
	case <-s.drain:
		return true
	default:
		return false
	}
}

func (s *Server) commonRoutes() {
	health := func(c echo.Context, err error) error {
		if err != nil {
			return c.JSON(http.StatusServiceUnavailable, map[string]string{"status": "unavailable", "problem": err.Error()})
		}
		return c.JSON(http.StatusOK, map[string]string{"status": "ok"})
	}
	s.echo.GET("/livez", func(c echo.Context) error {
		if s.opt.Live == nil {
			return health(c, nil)
		}
		return health(c, s.opt.Live())
	})
	s.echo.GET("/readyz", func(c echo.Context) error {
		if s.isDraining() {
			return health(c, errors.New("shutting down"))
		}
		if s.opt.Ready == nil {
			return health(c, nil)
		}
		ctx, cancel := context.WithTimeout(c.Request().Context(), healthCheckTimeout)
		defer cancel()
		return health(c, s.opt.Ready(ctx))
	})
	s.echo.GET("/version", func(c echo.Context) error {
		return c.JSON(http.StatusOK, map[string]string{"service": s.opt.Name, "version": cmp.Or(s.opt.Version, "unknown")})
	})
	s.echo.GET("/metrics", echo.WrapHandler(promhttp.HandlerFor(s.opt.Registry, promhttp.HandlerOpts{Registry: s.opt.Registry})))
}

// writeError turns what a handler returned into a problem.
func (s *Server) writeError(err error, c echo.Context) {
	if c.Response().Committed {
		return
	}
	var he *echo.HTTPError
	if errors.As(err, &he) && eval.KindOf(err) == eval.KindInternal {
		err = fromEcho(he)
	}
	if eval.KindOf(err) == eval.KindInternal && c.Request().Context().Err() == nil {
		s.log.Error("request failed", "service", s.opt.Name, "method", c.Request().Method, "path", c.Request().URL.Path, "err", err,
			"request_id", c.Response().Header().Get(echo.HeaderXRequestID))
	}
	if werr := problem.Write(c.Response(), c.Request(), err); werr != nil {
		s.log.Debug("could not write a problem", "err", werr)
	}
}

func fromEcho(he *echo.HTTPError) error {
	switch he.Code {
	case http.StatusNotFound:
		return eval.Errorf(eval.KindNotFound, "there is nothing at this path; / shows what is here")
	case http.StatusMethodNotAllowed:
		return eval.Errorf(eval.KindMethod, "this path does not answer to this method; /docs shows which")
	case http.StatusRequestEntityTooLarge:
		return eval.Errorf(eval.KindTooLarge, "the body is too large")
	case http.StatusUnsupportedMediaType:
		return eval.Errorf(eval.KindMediaType, "send application/json")
	}
	if he.Code < 500 {
		return eval.Errorf(eval.KindInvalid, "%v", he.Message)
	}
	return he
}

func isLoopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

func (s *Server) authenticate(next echo.HandlerFunc) echo.HandlerFunc {
	guard := http.NewCrossOriginProtection()
	return func(c echo.Context) error {
		r := c.Request()
		if len(s.opt.Tokens) == 0 {
			if !s.opt.AllowInsecure && !s.hostAllowed(r.Host) {
				return eval.Errorf(eval.KindForbidden, "host %q is not allowed; reach this server by a loopback name, or allow the host with --allowed-host", r.Host)
			}
			if err := guard.Check(r); err != nil {
				return eval.Errorf(eval.KindForbidden, "cross-site requests are refused")
			}
			return next(c)
		}
		path := r.URL.Path
		if path == "/livez" || path == "/readyz" || path == "/version" || s.opt.Public != nil && s.opt.Public(path) {
			return next(c)
		}
		if !s.tokenKnown(token(r)) {
			c.Response().Header().Set("WWW-Authenticate", `Bearer realm="crucible", Basic realm="crucible"`)
			return eval.Errorf(eval.KindUnauthorized, "send an API key as Authorization: Bearer KEY, as X-Api-Key: KEY, or as the password of HTTP basic authentication")
		}
		// Browsers send basic credentials by themselves, other sites included.
		if err := guard.Check(r); err != nil {
			return eval.Errorf(eval.KindForbidden, "cross-site requests are refused")
		}
		return next(c)
	}
}

func (s *Server) hostAllowed(hostport string) bool {
	host := hostport
	if h, _, err := net.SplitHostPort(hostport); err == nil {
		host = h
	}
	host = strings.Trim(host, "[]")
	if isLoopback(host) {
		return true
	}
	for _, h := range s.opt.AllowedHosts {
		if strings.EqualFold(h, host) {
			return true
		}
	}
	return false
}

func token(r *http.Request) string {
	if k := r.Header.Get("X-Api-Key"); k != "" {
		return k
	}
	if _, password, ok := r.BasicAuth(); ok {
		return password
	}
	scheme, rest, ok := strings.Cut(r.Header.Get("Authorization"), " ")
	if ok && strings.EqualFold(scheme, "bearer") {
		return strings.TrimSpace(rest)
	}
	return ""
}

// tokenKnown compares with every token, in constant time for each.
func (s *Server) tokenKnown(got string) bool {
	known := 0
	for _, t := range s.opt.Tokens {
		known |= subtle.ConstantTimeCompare([]byte(t), []byte(got))
	}
	return known == 1 && got != ""
}
