// Package run takes a program through its phases, each in a box of its own:
// compilation, then the run, or one run for each test. It turns what the
// sandbox reports into verdicts. It knows nothing of slots or HTTP.
package run
