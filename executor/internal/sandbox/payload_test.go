//go:build linux

package sandbox_test

import "os"

const payloadArg = "payload"

func payload(args []string) { os.Exit(0) }
