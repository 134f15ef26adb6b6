// Package fallback accepts evaluations while the store cannot be reached. It
// is a decorator of an [eval.Store]: what is created then, and cancels of it,
// are written to a journal on this machine's disk, can be read from there, and
// are brought to the store in order once it answers again.
//
// A line of the journal is synced before the client gets its answer. What is
// brought over is taken from the journal only when the store has it; when that
// is cut short, it is brought again, and as the store knows the ids, and the
// idempotency keys, it finds what it has. So a crash at any moment loses
// nothing and doubles nothing.
//
// The journal says of an evaluation only that it is queued, and perhaps that
// its cancel was asked for: anything more would be a guess, because what a
// store that went away in mid-request has written is not known. For the same
// reason lists show what waits here together with what the store has, and when
// that does not answer only what is certain to be whole: a batch accepted here.
//
// Each process has a journal of its own. What waits in it is unknown elsewhere,
// and stays here until this process, or another one with its folder, brings it
// over.
package fallback
