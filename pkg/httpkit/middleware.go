package httpkit

import (
	"errors"
	"fmt"
	"net/http"
	"runtime/debug"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/labstack/echo/v4"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/crucible-eval/crucible/pkg/eval"
)

// requestID names each request, keeps a sane name given by a proxy, and
// writes a line per request at debug level.
func (s *Server) requestID(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		began := time.Now()
		id := c.Request().Header.Get(echo.HeaderXRequestID)
		if id == "" || len(id) > 64 {
			id = uuid.NewString()
		}
		c.Response().Header().Set(echo.HeaderXRequestID, id)
		err := next(c)
		if err != nil {
			c.Error(err)
		}
		s.log.Debug("request", "service", s.opt.Name, "method", c.Request().Method, "path", c.Request().URL.Path,
			"status", c.Response().Status, "bytes", c.Response().Size, "took_ms", time.Since(began).Milliseconds(), "request_id", id, "client", Client(c))
		return nil
	}
}

// recoverPanic turns a panic into an internal error. The abort of a handler
// on purpose goes on.
func (s *Server) recoverPanic(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) (err error) {
		defer func() {
			switch p := recover(); {
			case p == nil:
			case p == http.ErrAbortHandler:
				panic(p)
			default:
				err = fmt.Errorf("panic: %v\n%s", p, debug.Stack())
			}
		}()
		return next(c)
	}
}

func securityHeaders(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		h := c.Response().Header()
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("X-Frame-Options", "DENY")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		return next(c)
	}
}

// limitKey is where a request's body limit stands in its context.
const limitKey = "crucible.body_limit"

func limitBody(limit int64) echo.MiddlewareFunc {
	return func(next echo.HandlerFunc) echo.HandlerFunc {
		return func(c echo.Context) error {
			c.Set(limitKey, limit)
			return next(c)
		}
	}
}

// BodyLimit gives a route its own limit on the body, in bytes.
func BodyLimit(limit int64) echo.MiddlewareFunc { return limitBody(limit) }

// ReadLimit is the limit on the body of this request, in bytes. Whoever reads
// a body does so through http.MaxBytesReader with this limit, as Decode does.
func ReadLimit(c echo.Context) int64 {
	limit, _ := c.Get(limitKey).(int64)
	return limit
}

// patienceKey is where the time for a request's body stands in its context.
const patienceKey = "crucible.body_patience"

func bodyPatience(d time.Duration) echo.MiddlewareFunc {
	return func(next echo.HandlerFunc) echo.HandlerFunc {
		return func(c echo.Context) error {
			c.Set(patienceKey, d)
			return next(c)
		}
	}
}

// tooLarge is the error for a body above the limit.
func tooLarge(limit int64) error {
	return eval.Errorf(eval.KindTooLarge, "the body is larger than %d bytes, the most that is accepted here", limit)
}

type metrics struct {
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	inFlight prometheus.Gauge
}

func newMetrics(reg *prometheus.Registry) (*metrics, error) {
	m := &metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "crucible_http_requests_total",
			Help: "Requests answered, by route, method and status."}, []string{"route", "method", "status"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "crucible_http_request_duration_seconds",
			Help:    "Time from a request to the end of its answer, by route and method.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30}}, []string{"route", "method"}),
		inFlight: prometheus.NewGauge(prometheus.GaugeOpts{Name: "crucible_http_requests_in_flight",
			Help: "Requests being answered."}),
	}
	for _, c := range []prometheus.Collector{m.requests, m.seconds, m.inFlight} {
		if err := register(reg, c, m); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// register adds a collector; several servers in one process share theirs.
func register(reg *prometheus.Registry, c prometheus.Collector, m *metrics) error {
	err := reg.Register(c)
	if there, ok := errors.AsType[prometheus.AlreadyRegisteredError](err); ok {
		switch have := there.ExistingCollector.(type) {
		case *prometheus.CounterVec:
			m.requests = have
		case *prometheus.HistogramVec:
			m.seconds = have
		case prometheus.Gauge:
			m.inFlight = have
		}
		return nil
	}
	return err
}

func (m *metrics) measure(next echo.HandlerFunc) echo.HandlerFunc {
	return func(c echo.Context) error {
		began := time.Now()
		m.inFlight.Inc()
		defer m.inFlight.Dec()
		err := next(c)
		if err != nil {
			c.Error(err)
		}
		route := c.Path()
		if route == "" {
			route = "none" // unknown paths must not become labels
		}
		m.requests.WithLabelValues(route, c.Request().Method, strconv.Itoa(c.Response().Status)).Inc()
		m.seconds.WithLabelValues(route, c.Request().Method).Observe(time.Since(began).Seconds())
		return nil
	}
}
