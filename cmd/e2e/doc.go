// Package e2e tests Crucible from outside: the built program as real
// processes, on its embedded defaults and on real Redis and PostgreSQL, in one
// process and in four. Its tests need the build tag e2e: make e2e.
package e2e
