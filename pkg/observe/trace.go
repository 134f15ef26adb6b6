package observe

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	"go.opentelemetry.io/otel/sdk/trace"
)

// TraceConfig says where traces go.
type TraceConfig struct {
	Endpoint string  // of an OTLP/HTTP collector, such as http://127.0.0.1:4318; empty: no traces
	Service  string  // service.name, such as crucible-worker
	Ratio    float64 // of new traces that are kept, 0 to 1; a caller's decision is followed
}

// Tracing installs the global tracer provider and the W3C propagator. stop
// sends what is left, until its context ends, and is never nil. Without an
// endpoint only the propagator is installed, so that a trace which comes in
// still goes through. Spans wait in a bounded buffer: a collector that cannot
// be reached costs spans, never requests.
func Tracing(ctx context.Context, c TraceConfig, logger *slog.Logger) (stop func(context.Context) error, err error) {
	nothing := func(context.Context) error { return nil }
	otel.SetTextMapPropagator(propagation.NewCompositeTextMapPropagator(propagation.TraceContext{}, propagation.Baggage{}))
	if c.Endpoint == "" {
		return nothing, nil
	}
	if c.Ratio < 0 || c.Ratio > 1 {
		return nothing, fmt.Errorf("the ratio of traces is %v: use 0 to 1", c.Ratio)
	}
	target, err := traceURL(c.Endpoint)
	if err != nil {
		return nothing, err
	}
	exporter, err := otlptracehttp.New(ctx, otlptracehttp.WithEndpointURL(target))
	if err != nil {
		return nothing, fmt.Errorf("trace exporter for %s: %w", c.Endpoint, err)
	}
	res, err := resource.Merge(resource.Default(), resource.NewSchemaless(
		attribute.String("service.name", c.Service),
		attribute.String("service.version", Version().Version),
	))
	if err != nil {
		return nothing, errors.Join(fmt.Errorf("trace resource: %w", err), exporter.Shutdown(ctx))
	}
	if logger != nil {
		otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) {
			logger.Warn("traces are not delivered", "endpoint", c.Endpoint, "err", err)
		}))
	}
	provider := trace.NewTracerProvider(
		trace.WithBatcher(exporter),
		trace.WithResource(res),
		trace.WithSampler(trace.ParentBased(trace.TraceIDRatioBased(c.Ratio))),
	)
	otel.SetTracerProvider(provider)
	return provider.Shutdown, nil
}

// traceURL adds the path of OTLP traces to a collector's base address, as the
// OpenTelemetry specification says for OTEL_EXPORTER_OTLP_ENDPOINT.
func traceURL(endpoint string) (string, error) {
	u, err := url.Parse(endpoint)
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
		return "", fmt.Errorf("the trace endpoint %q is not an http or https address: use one such as http://127.0.0.1:4318", endpoint)
	}
	return u.JoinPath("v1", "traces").String(), nil
}
