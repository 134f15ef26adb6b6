// Package chaos runs Crucible as it is run in earnest, a process for each
// part on a real Redis and PostgreSQL, puts load on it, and kills, freezes,
// cuts, fills, empties and corrupts its parts, in turn and two at once. Then it
// reads the history of every accepted evaluation and checks that each ended
// exactly once, with the right outcome. The report says how long each kind of
// fault kept evaluations from going on. It needs the build tag chaos: make
// chaos, make chaos-short.
package chaos
