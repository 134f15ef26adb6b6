package api_test

import (
	"bytes"
	"net/http"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/pkg/eval"
)

// every is all byte values.
var every = func() []byte {
	b := make([]byte, 256)
	for i := range b {
		b[i] = byte(i)
	}
	return b
}()

func stream(b []byte) eval.Stream { return eval.Stream{Data: b, Bytes: int64(len(b))} }

// large puts a stream into blobs, as a worker does.
func (p *platform) large(b []byte) eval.Stream {
	p.t.Helper()
	digest, size, err := p.blobs.Put(p.t.Context(), bytes.NewReader(b))
	require.NoError(p.t, err)
	return eval.Stream{Data: b[:eval.InlineBytes], Bytes: size, Blob: digest, Truncated: true}
}

func TestOutputIsExact(t *testing.T) {
	p := start(t)
	e := p.post("/api/v1/evaluations", hello).evaluation()
	p.get(e.Links.Self+"/output/stdout").problem(http.StatusConflict, eval.KindConflict)
	o := accepted("")
	o.Result.Stdout, o.Result.Stderr = stream(every), stream(nil)
	p.run(e.ID, o)
	e = p.get(e.Links.Self).evaluation()
	require.Equal(t, eval.EncodingBase64, e.Result.Stdout.Encoding)
	r := p.get(e.Links.Stdout)
	require.Equal(t, http.StatusOK, r.Code)
	require.Equal(t, string(every), r.Body)
	require.Equal(t, "application/octet-stream", r.Header.Get("Content-Type"))
	require.Equal(t, "nosniff", r.Header.Get("X-Content-Type-Options"))
	require.Empty(t, p.get(e.Links.Stderr).Body)
	p.get(e.Links.Self+"/output/stdin").problem(http.StatusNotFound, eval.KindNotFound)
	p.get(e.Links.Stdout + "?test=-1").invalid("test")
	p.get(e.Links.Stdout + "?phase=link").invalid("phase")
	p.get(e.Links.Stdout + "?offset=3").invalid("offset")
	p.get(e.Links.Stdout+"?test=0").problem(http.StatusNotFound, eval.KindNotFound)
	p.get(e.Links.Stdout+"?phase=compile").problem(http.StatusNotFound, eval.KindNotFound)
}

func TestOutputRanges(t *testing.T) {
	p := start(t)
	whole := bytes.Repeat(every, 2000) // 512,000 bytes: in blobs
	for name, s := range map[string]eval.Stream{"inline": stream(whole[:1000]), "blob": p.large(whole)} {
		t.Run(name, func(t *testing.T) {
			want := string(whole[:s.Bytes])
			e := p.post("/api/v1/evaluations", hello).evaluation()
			o := accepted("")
			o.Result.Stdout = s
			p.run(e.ID, o)
			path := e.Links.Self + "/output/stdout"
			get := func(header ...string) response {
				h := http.Header{}
				for i := 0; i < len(header); i += 2 {
					h.Set(header[i], header[i+1])
				}
				return p.send("GET", path, "", h)
			}
			full := get()
			require.Equal(t, want, full.Body)
			etag := full.Header.Get("ETag")
			require.NotEmpty(t, etag)

			part := get("Range", "bytes=300-309")
			require.Equal(t, http.StatusPartialContent, part.Code)
			require.Equal(t, want[300:310], part.Body)
			require.Equal(t, "bytes 300-309/"+strconv.FormatInt(s.Bytes, 10), part.Header.Get("Content-Range"))
			require.Equal(t, want[s.Bytes-5:], get("Range", "bytes=-5").Body)
			require.Equal(t, want[990:], get("Range", "bytes=990-").Body)
			require.Equal(t, http.StatusRequestedRangeNotSatisfiable, get("Range", "bytes=99999999-").Code)
			require.Equal(t, http.StatusNotModified, get("If-None-Match", etag).Code)
			require.Equal(t, http.StatusOK, get("Range", "bytes=0-1", "If-Range", `"other"`).Code)

			head := p.send("HEAD", path, "", nil)
			require.Equal(t, http.StatusOK, head.Code)
			require.Equal(t, strconv.FormatInt(s.Bytes, 10), head.Header.Get("Content-Length"))
			require.Empty(t, head.Body)
		})
	}
}

func TestLargeOutputIsPreviewedInTheResult(t *testing.T) {
	p := start(t)
	text := bytes.Repeat([]byte("é"), 100_000) // the preview's last rune would be cut
	text = append([]byte("x"), text...)
	e := p.post("/api/v1/evaluations", hello).evaluation()
	o := accepted("")
	o.Result.Stdout = p.large(text)
	p.run(e.ID, o)
	r := p.get(e.Links.Self)
	out := r.evaluation().Result.Stdout
	require.True(t, out.Preview)
	require.True(t, out.Truncated)
	require.EqualValues(t, len(text), out.Bytes)
	require.Equal(t, eval.EncodingUTF8, out.Encoding, "text stays text")
	require.Len(t, out.Data, eval.InlineBytes-1)
	require.NotContains(t, r.Body, o.Result.Stdout.Blob, "digests stay inside")
	whole := p.get(out.URL)
	require.Equal(t, string(text), whole.Body)
	require.Equal(t, "true", whole.Header.Get("Crucible-Truncated"))
}

func TestOutputOfCompilationAndTests(t *testing.T) {
	p := start(t)
	e := p.post("/api/v1/evaluations", hello).evaluation()
	o := accepted("")
	o.Result.Compile = &eval.Phase{Stdout: stream([]byte("compiling")), Stderr: stream([]byte("warning"))}
	o.Result.Tests = []eval.TestResult{{Name: "a", Verdict: eval.Accepted, Stdout: stream([]byte("A"))}, {Verdict: eval.Accepted, Stderr: stream([]byte("B"))}}
	p.run(e.ID, o)
	path := e.Links.Self + "/output/"
	require.Equal(t, "warning", p.get(path+"stderr?phase=compile").Body)
	require.Equal(t, "A", p.get(path+"stdout?test=0").Body)
	require.Equal(t, "B", p.get(path+"stderr?test=1").Body)
	p.get(path+"stderr?test=2").problem(http.StatusNotFound, eval.KindNotFound)
	p.get(path + "stderr?test=1&phase=compile").invalid("test")
}

func TestOutputOfWhatNeverRan(t *testing.T) {
	p := start(t)
	e := p.post("/api/v1/evaluations", hello).evaluation()
	p.post(e.Links.Self+"/cancel", "")
	p.get(e.Links.Self+"/output/stdout").problem(http.StatusNotFound, eval.KindNotFound)
}
