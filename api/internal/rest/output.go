package rest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strconv"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/pkg/problem"
)

const partCompile = "?phase=compile"

func partTest(i int) string { return "?test=" + strconv.Itoa(i) }

// outputPath returns the path of a stream's bytes.
func outputPath(id eval.ID, part string) func(stream string) string {
	return func(stream string) string { return pathOf(id) + "/output/" + stream + part }
}

// output answers with a whole stream, byte for byte, or the ranges of it that
// are asked for.
func (a *API) output(c echo.Context) error {
	key, err := keyParam(c)
	if err != nil {
		return err
	}
	name := c.Param("stream")
	if name != "stdout" && name != "stderr" {
		return eval.Errorf(eval.KindNotFound, "there is no output %q: there are stdout and stderr", clip(name))
	}
	q := query(c)
	phase, test := q.one("phase"), q.one("test")
	index, err := strconv.Atoi(test)
	if test != "" && (err != nil || index < 0) {
		q.wrong("test", "%q is not the number of a test, from 0", clip(test))
	}
	if phase != "" && phase != "compile" && phase != "run" {
		q.wrong("phase", "%q is not one of compile, run", clip(phase))
	}
	if phase == "compile" && test != "" {
		q.wrong("test", "cannot be given together with phase=compile: all tests are compiled once")
	}
	if err := q.err(); err != nil {
		return err
	}
	e, err := a.ended(c.Request().Context(), key, "output")
	if err != nil {
		return err
	}
	part := "run"
	stdout, stderr := e.Result.Stdout, e.Result.Stderr
	switch {
	case phase == "compile" && e.Result.Compile == nil:
		return eval.Errorf(eval.KindNotFound, "nothing was compiled: the language has no compiler, or the program did not get that far; leave phase=compile out")
	case phase == "compile":
		part, stdout, stderr = "compile", e.Result.Compile.Stdout, e.Result.Compile.Stderr
	case test != "" && index >= len(e.Result.Tests):
		return eval.Errorf(eval.KindNotFound, "there is no test %d: there are %d, counted from 0", index, len(e.Result.Tests))
	case test != "":
		part, stdout, stderr = "test"+test, e.Result.Tests[index].Stdout, e.Result.Tests[index].Stderr
	}
	s := stdout
	if name == "stderr" {
		s = stderr
	}
	if s.Truncated {
		c.Response().Header().Set("Crucible-Truncated", "true")
	}
	return a.serve(c, e, s, part+"-"+name, string(e.ID)+"-"+name)
}

// ended returns an evaluation that has a result, which never changes.
func (a *API) ended(ctx context.Context, key eval.Key, what string) (eval.Evaluation, error) {
	e, err := a.Store.Get(ctx, key)
	if err != nil {
		return e, err
	}
	if !e.Status.Terminal() {
		return e, &eval.Error{Kind: eval.KindConflict, Status: e.Status,
			Message: fmt.Sprintf("the evaluation is %s; its %s is here when it has ended, and what it prints at %s/events before", e.Status, what, pathOf(e.ID))}
	}
	if e.Result == nil {
		return e, eval.Errorf(eval.KindNotFound, "the evaluation is %s and the program never ran: there is no %s; its failure or reason says why", e.Status, what)
	}
	return e, nil
}

// serve answers with the bytes of a stream, or the ranges of it that are
// asked for, to be kept as a file: a browser must never take what a program
// wrote for a page of this server.
func (a *API) serve(c echo.Context, e eval.Evaluation, s eval.Stream, part, filename string) error {
	content, err := a.open(c.Request().Context(), s)
	if err != nil {
		return err
	}
	defer func() { _ = content.Close() }()

	h := c.Response().Header()
	h.Set(echo.HeaderContentType, echo.MIMEOctetStream)
	h.Set("Content-Disposition", mime.FormatMediaType("attachment", map[string]string{"filename": filename}))
	h.Set("Cache-Control", "private, no-cache")
	// An evaluation that has ended never changes, so its id names the bytes.
	h.Set("ETag", fmt.Sprintf(`"%s-%s"`, e.ID, part))
	var ended time.Time
	if e.FinishedAt != nil {
		ended = *e.FinishedAt
	}
	w := &rangeWriter{ResponseWriter: c.Response(), size: s.Bytes}
	http.ServeContent(w, c.Request(), "", ended, content)
	return nil
}

// rangeWriter turns the refusal of a range, which http.ServeContent writes as
// text, into a problem.
type rangeWriter struct {
	http.ResponseWriter
	size    int64
	refused bool
}

func (w *rangeWriter) WriteHeader(status int) {
	if status != http.StatusRequestedRangeNotSatisfiable {
		w.ResponseWriter.WriteHeader(status)
		return
	}
	w.refused = true
	p := problem.From(eval.Invalid([]eval.FieldError{{Field: "Range", Message: fmt.Sprintf("asks for what is not there: there are %d bytes", w.size)}}))
	p.Status, p.Title = status, "There are no such bytes"
	h := w.Header()
	h.Set(echo.HeaderContentType, problem.MediaType)
	h.Del(echo.HeaderContentLength)
	h.Del("Content-Disposition")
	w.ResponseWriter.WriteHeader(status)
	_ = json.NewEncoder(w.ResponseWriter).Encode(p) // a client that is gone needs no problem
}

func (w *rangeWriter) Write(p []byte) (int, error) {
	if w.refused {
		return len(p), nil
	}
	return w.ResponseWriter.Write(p)
}

func (a *API) open(ctx context.Context, s eval.Stream) (io.ReadSeekCloser, error) {
	if s.Blob == "" {
		return nopCloser{bytes.NewReader(s.Data)}, nil
	}
	if a.Blobs == nil {
		return nil, eval.Errorf(eval.KindUnavailable, "this server was started without access to large outputs; result has the beginning of this one")
	}
	r, size, err := a.Blobs.Open(ctx, s.Blob, 0, 0) // is it there, and how long?
	if err != nil {
		if eval.IsKind(err, eval.KindNotFound) {
			return nil, eval.Errorf(eval.KindNotFound, "the whole output is no longer kept; result has its beginning")
		}
		return nil, err
	}
	return &blob{ctx: ctx, blobs: a.Blobs, digest: s.Blob, size: size}, r.Close()
}

type nopCloser struct{ io.ReadSeeker }

func (nopCloser) Close() error { return nil }

// blob reads a blob from wherever it is sought to. It opens it at the first
// read after a seek.
type blob struct {
	ctx    context.Context
	blobs  eval.Blobs
	digest string
	size   int64
	at     int64
	r      io.ReadCloser
}

func (b *blob) Read(p []byte) (int, error) {
	if b.at >= b.size {
		return 0, io.EOF
	}
	if b.r == nil {
		r, _, err := b.blobs.Open(b.ctx, b.digest, b.at, -1)
		if err != nil {
			return 0, err
		}
		b.r = r
	}
	n, err := b.r.Read(p)
	b.at += int64(n)
	if err == io.EOF && b.at < b.size {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

func (b *blob) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += b.at
	case io.SeekEnd:
		offset += b.size
	}
	if offset < 0 {
		return 0, errors.New("seek before the beginning")
	}
	if offset != b.at {
		b.at = offset
		return offset, b.Close()
	}
	return offset, nil
}

func (b *blob) Close() error {
	if b.r == nil {
		return nil
	}
	r := b.r
	b.r = nil
	return r.Close()
}
