package eval

//go:generate go run ./internal/statediagram ../../docs/state-machine.md
//go:generate go run ./internal/errorpage ../../docs/errors.md
