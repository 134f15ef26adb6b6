// Package wire carries small messages and file descriptors between the
// executor, its launcher and the first process of each box.
//
// One message is one packet of a SOCK_SEQPACKET socket: nothing to frame,
// and an empty read is the end. Values are written in a fixed order, both
// sides being the same build; a decoder that runs short reports it once at
// the end, so that callers read a whole message and then check.
package wire

import (
	"encoding/binary"
	"errors"
)

// MaxMessage is the largest message in bytes. It stays below the kernel's
// default send buffer (208 KiB), above which a packet would be refused.
const MaxMessage = 160 << 10

// ErrMalformed says that a message ended too early or held a wrong length.
var ErrMalformed = errors.New("wire: malformed message")

// Encoder appends values to a message.
type Encoder struct{ b []byte }

// NewEncoder starts a message of the given kind.
func NewEncoder(kind byte) *Encoder { return &Encoder{b: append(make([]byte, 0, 512), kind)} }

// Bytes returns the message.
func (e *Encoder) Bytes() []byte { return e.b }

// Int appends a number.
func (e *Encoder) Int(v int64) *Encoder {
	e.b = binary.AppendVarint(e.b, v)
	return e
}

// Bool appends a truth value.
func (e *Encoder) Bool(v bool) *Encoder {
	if v {
		return e.Int(1)
	}
	return e.Int(0)
}

// String appends a string, which may hold any byte.
func (e *Encoder) String(s string) *Encoder {
	e.b = binary.AppendUvarint(e.b, uint64(len(s)))
	e.b = append(e.b, s...)
	return e
}

// Strings appends a list.
func (e *Encoder) Strings(list []string) *Encoder {
	e.b = binary.AppendUvarint(e.b, uint64(len(list)))
	for _, s := range list {
		e.String(s)
	}
	return e
}

// Decoder reads values in the order in which they were appended.
type Decoder struct {
	b   []byte
	err error
}

// NewDecoder returns the kind of a message and a decoder for the rest of it.
func NewDecoder(b []byte) (kind byte, d *Decoder) {
	if len(b) == 0 {
		return 0, &Decoder{err: ErrMalformed}
	}
	return b[0], &Decoder{b: b[1:]}
}

// Err returns ErrMalformed when any value could not be read.
func (d *Decoder) Err() error { return d.err }

// Int reads a number; 0 after an error.
func (d *Decoder) Int() int64 {
	v, n := binary.Varint(d.b)
	if n <= 0 {
		d.err = ErrMalformed
		d.b = nil
		return 0
	}
	d.b = d.b[n:]
	return v
}

// Bool reads a truth value.
func (d *Decoder) Bool() bool { return d.Int() != 0 }

func (d *Decoder) length() int {
	v, n := binary.Uvarint(d.b)
	if n <= 0 || v > uint64(len(d.b)-n) {
		d.err = ErrMalformed
		d.b = nil
		return 0
	}
	d.b = d.b[n:]
	return int(v)
}

// String reads a string; empty after an error.
func (d *Decoder) String() string {
	n := d.length()
	s := string(d.b[:n])
	d.b = d.b[n:]
	return s
}

// Strings reads a list; nil after an error.
func (d *Decoder) Strings() []string {
	n := d.length()
	if n == 0 {
		return nil
	}
	list := make([]string, 0, n)
	for range n {
		list = append(list, d.String())
	}
	if d.err != nil {
		return nil
	}
	return list
}
