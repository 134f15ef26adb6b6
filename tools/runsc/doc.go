// Package runsc holds no code: its module pins gVisor's runsc, which the
// sandbox's tests at level gvisor run, and make builds as bin/tools/runsc. The
// version is one of gVisor's branch for the go command, where it is a module
// that builds without Bazel.
package runsc
