package run

import "fmt"

// firstRealTime is the first real-time signal of Linux.
const firstRealTime = 32

// realTime names a signal that has a number only.
func realTime(n int) string {
	if n >= firstRealTime {
		return fmt.Sprintf("SIGRTMIN+%d", n-firstRealTime)
	}
	return fmt.Sprintf("signal %d", n)
}
