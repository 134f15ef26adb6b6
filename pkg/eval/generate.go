package eval

//go:generate go run ./internal/statediagram ../../docs/state-machine.md
