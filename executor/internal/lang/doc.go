// Package lang knows languages as data: what a program of each is called, how
// it is compiled and run, and which tools that takes. It finds the real tools
// on this machine, has each language proven by a smoke test in the sandbox
// before it is offered, and turns a program into command lines. It starts
// nothing in a box itself: see package run.
//
// A language is a YAML file. The ones in the folder languages are built in;
// a folder of the operator's adds to them, or replaces one by its id.
package lang
