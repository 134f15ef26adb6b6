package api_test

import (
	"bytes"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/pkg/eval"
)

func TestArtifacts(t *testing.T) {
	p := start(t)
	e := p.post("/api/v1/evaluations", `{"language":"python","code":"1","artifacts":["**"]}`).evaluation()
	at := e.Links.Self + "/artifacts/"
	p.get(at+"0").problem(http.StatusConflict, eval.KindConflict)
	whole := bytes.Repeat(every, 2000)
	large := p.large(whole)
	large.Truncated = false
	o := accepted("")
	o.Result.ArtifactsCut = true
	o.Result.Artifacts = []eval.Artifact{
		{Path: "out/a \"b\"/ü.html", SHA256: "x", Content: stream([]byte("<script>alert(1)</script>"))},
		{Path: "big.bin", SHA256: large.Blob, Content: large},
		{Path: "link", Error: "is not a regular file"},
		{Path: "bytes", SHA256: "y", Content: stream(every)},
		{Path: "empty", SHA256: "z"},
	}
	p.run(e.ID, o)
	shown := p.get(e.Links.Self)
	got := shown.evaluation()
	require.Equal(t, []eval.Pattern{"**"}, got.Artifacts)
	all := got.Result.Artifacts
	require.Len(t, all, 5)
	require.True(t, got.Result.ArtifactsCut)
	require.Equal(t, "<script>alert(1)</script>", all[0].Data)
	require.Equal(t, "is not a regular file", all[2].Error)
	require.Empty(t, all[2].URL)
	require.Equal(t, eval.EncodingBase64, all[3].Encoding)
	require.Empty(t, all[1].Data, "what is long is at its url only")
	require.EqualValues(t, len(whole), all[1].Bytes)
	require.Less(t, len(shown.Body), 10_000)

	first := p.get(all[0].URL)
	require.Equal(t, "<script>alert(1)</script>", first.Body)
	require.Equal(t, "application/octet-stream", first.Header.Get("Content-Type"))
	require.Equal(t, "nosniff", first.Header.Get("X-Content-Type-Options"))
	require.Equal(t, "attachment; filename*=utf-8''%C3%BC.html", first.Header.Get("Content-Disposition"))
	require.Equal(t, string(whole), p.get(all[1].URL).Body)
	part := p.send("GET", all[1].URL, "", http.Header{"Range": {"bytes=300-309"}})
	require.Equal(t, http.StatusPartialContent, part.Code)
	require.Equal(t, string(whole[300:310]), part.Body)
	require.Equal(t, http.StatusRequestedRangeNotSatisfiable, p.send("GET", all[0].URL, "", http.Header{"Range": {"bytes=99999-"}}).Code)
	require.Equal(t, string(every), p.get(all[3].URL).Body)
	require.Empty(t, p.get(all[4].URL).Body)
	require.Equal(t, "256", p.send("HEAD", all[3].URL, "", nil).Header.Get("Content-Length"))
	require.Equal(t, http.StatusNotModified, p.send("GET", all[0].URL, "", http.Header{"If-None-Match": {first.Header.Get("ETag")}}).Code)
	for _, missing := range []string{"2", "5", "-1", "x", "99999999999999999999"} {
		p.get(at+missing).problem(http.StatusNotFound, eval.KindNotFound)
	}
	p.get(at + "0?offset=1").invalid("offset")
	require.NotContains(t, p.get("/api/v1/evaluations").Body, "alert(1)", "lists are without them")
}

func TestTestsAndCheckersAreSeen(t *testing.T) {
	p := start(t)
	e := p.post("/api/v1/evaluations", `{"language":"python","code":"1","checker":{"type":"floats","relative":1e-9},"stop_on_failure":true,"parallel":3,
		"tests":[{"expected_stdout":"1"},{"expected_stdout":"a|b","checker":"regex","limits":{"wall_ms":20000}},
			{"checker":{"type":"program","language":"py","code":"x","limits":{"memory_bytes":67108864}}}]}`).evaluation()
	o := accepted("")
	o.Result.Tests = []eval.TestResult{{Verdict: eval.WrongAnswer, Cause: eval.CauseTest, Message: "word 1"}, {Verdict: eval.CheckerError, Cause: eval.CauseOOM}, {Verdict: eval.Skipped}}
	o.Result.Verdict, o.Result.Cause = eval.CheckerError, eval.CauseOOM
	p.run(e.ID, o)
	got := p.get(e.Links.Self).evaluation()
	require.Equal(t, eval.CheckerError, got.Verdict)
	require.Equal(t, eval.Checker{Type: eval.CheckFloats, Relative: 1e-9}, got.Checker)
	require.True(t, got.StopOnFailure)
	require.Equal(t, 3, got.Parallel)
	require.Equal(t, eval.CheckRegex, got.Tests[1].Checker.Type)
	require.EqualValues(t, 20_000, got.Tests[1].Limits.WallMS)
	require.EqualValues(t, 20_000, got.Tests[1].Limits.CPUMS, "it follows")
	require.EqualValues(t, 256<<20, got.Tests[1].Limits.MemoryBytes, "of the program")
	require.Zero(t, got.Tests[0].Limits)
	own := got.Tests[2].Checker
	require.Equal(t, "python", own.Language)
	require.EqualValues(t, 64<<20, own.Limits.MemoryBytes)
	require.EqualValues(t, 10_000, own.Limits.WallMS, "of the server")
	require.Len(t, p.get("/api/v1/evaluations?verdict=checker_error").list().Evaluations, 1)
}

func TestEachWrongFieldOfTestsAndArtifactsIsNamed(t *testing.T) {
	p := start(t)
	submit := func(rest string) response {
		return p.post("/api/v1/evaluations", `{"language":"python","code":"1",`+rest+`}`)
	}
	submit(`"checker":{"type":"floats","tolerance":1,"absolute":"x","limits":{"wall":1}},"tests":[{"checker":7}]`).
		invalid("checker.absolute", "checker.limits.wall", "checker.tolerance", "tests[0].checker")
	submit(`"checker":"exact","stop_on_failure":true,"parallel":1`).invalid("checker", "stop_on_failure", "parallel")
	submit(`"parallel":65,"tests":[{}]`).invalid("parallel")
	submit(`"tests":[{"checker":"psychic"},{"checker":{"type":"exact","absolute":1,"code":"x"}},{"checker":{"type":"json","relative":-1}}]`).
		invalid("tests[0].checker", "tests[1].checker.absolute", "tests[1].checker.code", "tests[2].checker.relative")
	submit(`"checker":"regex","tests":[{"expected_stdout":"a("},{"expected_stdout":"a"},{"expected_stdout":"(a{1000}){1000}"},{"expected_stdout":"[","checker":"exact"},{"expected_stdout":"\\Qa"}]`).
		invalid("tests[0].expected_stdout", "tests[2].expected_stdout", "tests[4].expected_stdout")
	submit(`"checker":"json","tests":[{"expected_stdout":"{}"},{"expected_stdout":"{}{}"}]`).invalid("tests[1].expected_stdout")
	submit(`"tests":[{"checker":{"type":"program"}},{"checker":{"type":"program","language":"klingon","code":"x","limits":{"wall_ms":-1}}},
		{"checker":{"type":"program","language":"python","files":{"../x":"","input":""},"entrypoint":"y"}}]`).
		invalid("tests[0].checker.language", "tests[0].checker.code", `tests[2].checker.files["../x"]`, "tests[2].checker.entrypoint", `tests[2].checker.files["input"]`,
			"tests[1].checker.language", "tests[1].checker.limits.wall_ms")
	submit(`"tests":[{"limits":{"wall_ms":1,"memory_bytes":1}},{"limits":{"cpu_ms":99999999}}]`).
		invalid("tests[0].limits.wall_ms", "tests[0].limits.memory_bytes", "tests[1].limits.cpu_ms")
	submit(`"limits":{"wall_ms":300000},"tests":[` + strings.TrimSuffix(strings.Repeat("{},", 100), ",") + `]`).invalid("tests")
	var nine []string
	for _, c := range "abcdefghi" {
		nine = append(nine, `{"checker":{"type":"program","language":"python","code":"`+string(c)+`"}}`)
	}
	submit(`"tests":[` + strings.Join(nine, ",") + `]`).invalid("tests")
	submit(`"artifacts":["a","/abs","../x","a//b","a[","","ok/**/*.png","`+strings.Repeat("x", 256)+`"]`).
		invalid("artifacts[1]", "artifacts[2]", "artifacts[3]", "artifacts[4]", "artifacts[5]", "artifacts[7]")
	submit(`"artifacts":["a"],"tests":[{}]`).invalid("artifacts")
	submit(`"artifacts":[` + strings.TrimSuffix(strings.Repeat(`"a",`, 33), ",") + `]`).invalid("artifacts")
	submit(`"checker":{"type":"program","language":"python","code":"` + strings.Repeat("x", 5<<20) + `"},"tests":[{}]`).invalid("code")
}
