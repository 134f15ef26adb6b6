// Package httpkit is the only place that configures Echo: every service of
// Crucible listens, answers errors, and shows its health in the same way.
package httpkit

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
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
	Tokens []Token
	// AllowInsecure permits to listen elsewhere without tokens.
	AllowInsecure bool
	// AllowedHosts are accepted as Host besides loopback names and Listen's
	// own, when there are no tokens.
	AllowedHosts []string
	// Public says which paths need no credentials, besides /livez, /readyz
	// and /version.
	Public func(path string) bool

	// Parts are what the service needs, as /readyz tries them.
	Parts []Part
	// Live is what /livez tells: an error means "makes no progress"; nil: always.
	Live    func() error
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

	parts   []*part
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
	for _, p := range opt.Parts {
		s.parts = append(s.parts, &part{Part: p, log: opt.Logger.With("service", opt.Name)})
	}
	s.echo.HideBanner, s.echo.HidePort = true, true
	s.echo.HTTPErrorHandler = s.writeError
	s.echo.JSONSerializer = serializer{}
	m, err := newMetrics(opt.Registry)
	if err != nil {
		return nil, err
	}
	s.echo.Use(s.requestID, m.measure, s.recoverPanic, securityHeaders, s.farewell, s.authenticate, limitBody(opt.BodyLimit), bodyPatience(opt.BodyPatience))
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

func (s *Server) commonRoutes() {
	s.echo.GET("/livez", s.livez)
	s.echo.GET("/readyz", s.readyz)
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
		return eval.Errorf(eval.KindTooLarge, "the body is too large; send less, or several requests")
	case http.StatusUnsupportedMediaType:
		return eval.Errorf(eval.KindMediaType, "the body must be application/json")
	}
	if he.Code < 500 {
		return eval.Errorf(eval.KindInvalid, "%v", he.Message)
	}
	return he
}
