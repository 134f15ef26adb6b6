package evaltest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/pkg/eval"
)

// OpenBlobs makes empty blobs and closes them with the test.
type OpenBlobs func(t *testing.T) eval.Blobs

func digestOf(content []byte) string {
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:])
}

// TestBlobs checks that blobs keep the contract of [eval.Blobs].
func TestBlobs(t *testing.T, open OpenBlobs) {
	read := func(t *testing.T, b eval.Blobs, digest string, offset, length int64) ([]byte, int64) {
		t.Helper()
		r, size, err := b.Open(t.Context(), digest, offset, length)
		require.NoError(t, err)
		defer func() { require.NoError(t, r.Close()) }()
		got, err := io.ReadAll(r)
		require.NoError(t, err)
		return got, size
	}
	tests := map[string]func(*testing.T, eval.Blobs){
		"what is put comes back, byte for byte": func(t *testing.T, b eval.Blobs) {
			for name, content := range map[string][]byte{
				"nothing": {}, "one byte": {0}, "every byte": everyByte(), "some": bytes.Repeat([]byte("0123456789abcdef"), 64<<10),
			} {
				digest, size, err := b.Put(t.Context(), bytes.NewReader(content))
				require.NoError(t, err, name)
				require.Equal(t, digestOf(content), digest, name)
				require.EqualValues(t, len(content), size, name)
				got, size := read(t, b, digest, 0, -1)
				require.True(t, bytes.Equal(content, got), name)
				require.EqualValues(t, len(content), size, name)
			}
		},
		"50 MB that come in odd pieces": func(t *testing.T, b eval.Blobs) {
			const size = 50_000_000
			sum := sha256.New()
			digest, n, err := b.Put(t.Context(), io.TeeReader(&pattern{left: size}, sum))
			require.NoError(t, err)
			require.EqualValues(t, size, n)
			require.Equal(t, hex.EncodeToString(sum.Sum(nil)), digest)
			r, n, err := b.Open(t.Context(), digest, 0, -1)
			require.NoError(t, err)
			defer func() { _ = r.Close() }()
			require.EqualValues(t, size, n)
			back := sha256.New()
			_, err = io.Copy(back, r)
			require.NoError(t, err)
			require.Equal(t, digest, hex.EncodeToString(back.Sum(nil)))
		},
		"the same twice is stored once": func(t *testing.T, b eval.Blobs) {
			first, _, err := b.Put(t.Context(), strings.NewReader("x"))
			require.NoError(t, err)
			second, _, err := b.Put(t.Context(), iotest.OneByteReader(strings.NewReader("x")))
			require.NoError(t, err)
			require.Equal(t, first, second)
			require.NoError(t, b.Delete(t.Context(), first))
			_, _, err = b.Open(t.Context(), first, 0, -1)
			kind(t, eval.KindNotFound, err)
		},
		"ranges": func(t *testing.T, b eval.Blobs) {
			content := []byte("0123456789")
			digest, _, err := b.Put(t.Context(), bytes.NewReader(content))
			require.NoError(t, err)
			for _, r := range []struct {
				offset, length int64
				want           string
			}{
				{0, -1, "0123456789"}, {0, 0, ""}, {0, 1, "0"}, {3, 4, "3456"}, {9, 5, "9"}, {3, -1, "3456789"}, {3, -7, "3456789"},
				{10, -1, ""}, {10, 3, ""}, {11, -1, ""}, {1 << 40, 1 << 40, ""}, {0, 1 << 62, "0123456789"},
			} {
				got, size := read(t, b, digest, r.offset, r.length)
				require.Equal(t, r.want, string(got), "%+v", r)
				require.EqualValues(t, 10, size)
			}
		},
		"what is not there, or no digest": func(t *testing.T, b eval.Blobs) {
			_, _, err := b.Open(t.Context(), digestOf([]byte("nowhere")), 0, -1)
			kind(t, eval.KindNotFound, err)
			for _, name := range []string{"", "x", "../../../etc/passwd", strings.ToUpper(digestOf(nil)), digestOf(nil) + "0", strings.Repeat("/", 64), strings.Repeat("\x00", 64)} {
				_, _, err := b.Open(t.Context(), name, 0, -1)
				kind(t, eval.KindInvalid, err)
				require.NoError(t, b.Delete(t.Context(), name))
			}
			digest, _, err := b.Put(t.Context(), strings.NewReader("x"))
			require.NoError(t, err)
			_, _, err = b.Open(t.Context(), digest, -1, -1)
			kind(t, eval.KindInvalid, err)
		},
		"delete": func(t *testing.T, b eval.Blobs) {
			digest, _, err := b.Put(t.Context(), strings.NewReader("x"))
			require.NoError(t, err)
			require.NoError(t, b.Delete(t.Context(), digest))
			require.NoError(t, b.Delete(t.Context(), digest), "removing what is not there is no error")
			_, _, err = b.Open(t.Context(), digest, 0, -1)
			kind(t, eval.KindNotFound, err)
			again, _, err := b.Put(t.Context(), strings.NewReader("x"))
			require.NoError(t, err)
			got, _ := read(t, b, again, 0, -1)
			require.Equal(t, "x", string(got))
		},
		"an error of the reader is returned and leaves nothing behind": func(t *testing.T, b eval.Blobs) {
			broken := errors.New("the source broke")
			for _, size := range []int64{0, 10, 2_000_000} {
				sum := sha256.New()
				r := io.MultiReader(io.TeeReader(&pattern{left: size}, sum), iotest.ErrReader(broken))
				_, _, err := b.Put(t.Context(), r)
				require.ErrorIs(t, err, broken)
				_, _, err = b.Open(t.Context(), hex.EncodeToString(sum.Sum(nil)), 0, -1)
				kind(t, eval.KindNotFound, err)
			}
		},
		"a caller who has gone gets an error": func(t *testing.T, b eval.Blobs) {
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			_, _, err := b.Put(ctx, strings.NewReader("x"))
			require.Error(t, err)
			_, _, err = b.Open(t.Context(), digestOf([]byte("x")), 0, -1)
			kind(t, eval.KindNotFound, err)
		},
		"many at once": func(t *testing.T, b eval.Blobs) {
			content := bytes.Repeat([]byte("x"), 300_000)
			together(6, func(i int) {
				mine := append([]byte{byte(i / 2)}, content...) // two each write the same
				digest, _, err := b.Put(t.Context(), bytes.NewReader(mine))
				if assert.NoError(t, err) {
					assert.Equal(t, digestOf(mine), digest)
				}
			})
			for i := range 3 {
				got, _ := read(t, b, digestOf(append([]byte{byte(i)}, content...)), 0, -1)
				require.Len(t, got, 300_001)
			}
		},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) { test(t, open(t)) })
	}
}

// pattern reads as bytes that do not repeat soon, in pieces of odd sizes.
type pattern struct {
	left int64
	next uint32
}

func (p *pattern) Read(to []byte) (int, error) {
	if p.left == 0 {
		return 0, io.EOF
	}
	n := min(int64(len(to)), p.left, 40_009)
	for i := range to[:n] {
		p.next = p.next*1664525 + 1013904223
		to[i] = byte(p.next >> 24)
	}
	p.left -= n
	return int(n), nil
}
