// Package abuse is the list of what hostile programs try against the sandbox,
// with the outcome that each level of isolation promises.
//
// The list is data. The tests of this package run every case through an
// executor at each level that the machine offers and hold it to its promise;
// docs/isolation.md shows the same list. The programs themselves are in
// package hostile, which is built for the boxes.
package abuse

//go:generate go run ./table ../../../docs/isolation.md
