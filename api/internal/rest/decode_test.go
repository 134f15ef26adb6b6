package rest_test

import (
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/api/internal/rest"
	"github.com/crucible-eval/crucible/pkg/eval"
)

// FuzzDecodeSpec: what is accepted means the same when it is written and read
// again, and what is refused is refused with a place and a reason.
func FuzzDecodeSpec(f *testing.F) {
	for _, seed := range []string{
		`{"language":"python","code":"print(1)"}`,
		`{"language":"c","files":{"a.c":{"data":"AP8=","encoding":"base64"}},"entrypoint":"a.c","args":["x"],"env":{"A":"1"},"limits":{"wall_ms":5},"tests":[{"expected_stdout":"1","checker":"exact"}],"tags":["t"],"run_at":"2026-01-31T12:00:00Z"}`,
		`{"limits":{"wall_ms":1e308}}`, `{"code":{"data":"%","encoding":"base64"}}`, `{"tests":[null,{}]}`, `null`, `[]`, `{"Code":"x"}`, `{"limits":null,"files":null}`, `{"a":{"b":{}}}`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		if !json.Valid(raw) {
			t.Skip()
		}
		spec, bad := rest.DecodeSpec(raw, "evaluations[7].")
		if len(bad) > 0 {
			require.LessOrEqual(t, len(bad), 100)
			for _, f := range bad {
				require.True(t, strings.HasPrefix(f.Field, "evaluations[7]"), f.Field)
				require.NotEmpty(t, f.Message)
			}
			return
		}
		written, err := json.Marshal(spec)
		require.NoError(t, err)
		again, bad := rest.DecodeSpec(written, "")
		require.Empty(t, bad, "%s", written)
		one, err := rest.Fingerprint(false, []eval.Spec{spec})
		require.NoError(t, err)
		two, err := rest.Fingerprint(false, []eval.Spec{again})
		require.NoError(t, err)
		require.Equal(t, one, two)
	})
}

// FuzzViewStream: a stream's bytes come through its view exactly, and a
// preview is a beginning of them.
func FuzzViewStream(f *testing.F) {
	f.Add([]byte("héllo"), 3)
	f.Add([]byte("\xff\x00"), 0)
	f.Add([]byte("aé"), 1)
	f.Add([]byte("€"), 1)
	f.Fuzz(func(t *testing.T, b []byte, more int) {
		more = max(0, more%100)
		v := rest.ViewStream(eval.Stream{Data: b, Bytes: int64(len(b) + more)}, "/x")
		data := []byte(v.Data)
		if v.Encoding == eval.EncodingBase64 {
			var err error
			data, err = base64.StdEncoding.DecodeString(v.Data)
			require.NoError(t, err)
		}
		require.Equal(t, more > 0, v.Preview)
		require.Equal(t, string(b[:len(data)]), string(data))
		require.Less(t, len(b)-len(data), utf8.UTFMax)
		if more == 0 {
			require.Len(t, data, len(b))
		}
	})
}

// FuzzLastEventID: what is accepted is written back as it came, in its
// canonical form, and nothing makes the parsers fall over.
func FuzzLastEventID(f *testing.F) {
	for _, seed := range []string{"4/1700-0", "0/", "evaluations=17", "evaluations=17,eval:01890a5d-ac96-774b-bcce-b302099a8057=4/1-0", "", ",", "=", "eval:=1/"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		for _, parse := range []func(string) (string, bool){rest.ParsePositions, rest.ParsePlace} {
			if canonical, ok := parse(s); ok {
				again, ok := parse(canonical)
				require.True(t, ok, canonical)
				require.Equal(t, canonical, again)
				require.NotContains(t, canonical, "\n")
			}
		}
	})
}
