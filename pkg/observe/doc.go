// Package observe sets up what operators see: the log, the Prometheus
// registry, the tracer and the program's version. Only main programs call it;
// everything else is handed a logger and a registry, and traces through the
// global OpenTelemetry API, which does nothing until [Tracing] is called.
package observe
