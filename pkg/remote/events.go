package remote

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
)

// eventReader reads server-sent events.
type eventReader struct {
	from  *bufio.Reader
	max   int    // bytes of one line
	alive func() // called whenever a line has come
	line  []byte
}

func newEventReader(from io.Reader, most int, alive func()) *eventReader {
	return &eventReader{from: bufio.NewReaderSize(from, 64<<10), max: most, alive: alive}
}

// next returns the next event's name and data. The data is good until the
// call after. A stream that ends is io.ErrUnexpectedEOF: it is the last event
// that ends one.
func (r *eventReader) next() (name string, data []byte, err error) {
	for {
		line, err := r.readLine()
		if err != nil {
			return "", nil, err
		}
		field, value, _ := bytes.Cut(line, []byte{':'})
		value = bytes.TrimPrefix(value, []byte{' '})
		switch {
		case len(line) == 0 && name != "":
			return name, data, nil
		case string(field) == "event":
			name = string(value)
		case string(field) == "data":
			if data != nil {
				data = append(data, '\n')
			}
			data = append(data, value...)
		}
	}
}

func (r *eventReader) readLine() ([]byte, error) {
	r.line = r.line[:0]
	for {
		part, err := r.from.ReadSlice('\n')
		r.line = append(r.line, part...)
		switch {
		case len(r.line) > r.max:
			return nil, fmt.Errorf("an event is longer than %d bytes", r.max)
		case errors.Is(err, bufio.ErrBufferFull):
			r.alive()
			continue
		case errors.Is(err, io.EOF):
			return nil, io.ErrUnexpectedEOF
		case err != nil:
			return nil, err
		}
		r.alive()
		return bytes.TrimRight(r.line, "\r\n"), nil
	}
}
