package evaltest

import (
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/pkg/eval"
)

func (r runner) artifacts(t *testing.T) {
	paths := func(res eval.Result) (all []string) {
		for _, a := range res.Artifacts {
			all = append(all, strings.TrimSpace(a.Path+" "+a.Error))
		}
		return all
	}
	t.Run("files come back byte for byte", func(t *testing.T) {
		req := request("python", "import os\nos.makedirs('out/a')\nopen('out/a/all', 'wb').write(bytes(range(256)) * 400)\nopen('out/empty', 'w')\nopen('plot.svg', 'w').write('<svg/>')\nopen('other', 'w')")
		req.Artifacts = []eval.Pattern{"out/**", "*.svg"}
		res := r.run(t, req)
		require.Equal(t, []string{"out/a/all", "out/empty", "plot.svg"}, paths(res))
		want := []byte(strings.Repeat(string(func() []byte {
			b := make([]byte, 256)
			for i := range b {
				b[i] = byte(i)
			}
			return b
		}()), 400))
		require.Equal(t, want, res.Artifacts[0].Content.Data)
		require.EqualValues(t, len(want), res.Artifacts[0].Content.Bytes)
		sum := sha256.Sum256(want)
		require.Equal(t, hex.EncodeToString(sum[:]), res.Artifacts[0].SHA256)
		require.Empty(t, res.Artifacts[1].Content.Data)
		require.Equal(t, "<svg/>", string(res.Artifacts[2].Content.Data))
		require.False(t, res.ArtifactsCut)
	})
	t.Run("whatever the verdict, and what is not there is said", func(t *testing.T) {
		req := request("python", "import time\nopen('core', 'w').write('x')\ntime.sleep(60)")
		req.Limits.WallMS = 1000
		req.Artifacts = []eval.Pattern{"core", "report.txt", "none/*"}
		res := r.run(t, req)
		require.Equal(t, eval.TimeLimit, res.Verdict)
		require.Equal(t, []string{"core", "report.txt is not there"}, paths(res))
	})
	t.Run("only regular files, and only those of the work folder", func(t *testing.T) {
		req := request("bash", `
			echo secret > real; ln real hard; chmod 06777 real; echo x > $'bad\xff'; echo x > $'new\nline'; mkdir folder
			ln -s /etc/passwd link; ln -s real near; ln -s / root; ln -s ../../../../../etc/hostname folder/up
			# Not every sandbox allows these.
			mkfifo pipe; python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind("sock")'; true`)
		req.Artifacts = []eval.Pattern{"**", "folder", "root/etc/passwd"}
		res := r.run(t, req)
		const irregular = " is not a regular file"
		if strings.HasPrefix(res.Isolation.Level, "namespaces") {
			require.Len(t, res.Artifacts, 13, "with a pipe and a socket")
		}
		got := slices.DeleteFunc(paths(res), func(s string) bool { return s == "pipe"+irregular || s == "sock"+irregular })
		require.Equal(t, []string{
			"bad\uFFFD its name is not valid UTF-8", "folder" + irregular, "folder/up" + irregular, "hard", "link" + irregular,
			"main.sh", "near" + irregular, "new\nline", "real", "root" + irregular, "root/etc/passwd is not there",
		}, got)
		for _, a := range res.Artifacts {
			require.Equal(t, a.Error != "", a.SHA256 == "", a.Path)
			if a.Error != "" {
				require.Empty(t, a.Content.Data, a.Path)
			}
		}
	})
	t.Run("too large, too many", func(t *testing.T) {
		req := request("python", "f = open('hole', 'w'); f.truncate(20 << 20)\nfor i in range(120): open(f'z{i:03}', 'w').write(str(i))")
		req.Artifacts = []eval.Pattern{"hole", "z*"}
		res := r.run(t, req)
		exit(t, res, 0)
		require.True(t, res.ArtifactsCut)
		require.Len(t, res.Artifacts, 100)

		hole := res.Artifacts[0]
		require.Equal(t, "hole", hole.Path)
		require.Contains(t, hole.Error, "larger than")
		require.EqualValues(t, 20<<20, hole.Content.Bytes)
		require.Equal(t, "0", string(res.Artifacts[1].Content.Data))
	})
	t.Run("of a compiled language", func(t *testing.T) {
		if !r.offered(t, "c") {
			t.Skip("no C compiler here")
		}
		req := request("c", "#include <stdio.h>\nint main(void) { FILE *f = fopen(\"out\", \"w\"); fputs(\"made\", f); fclose(f); }")
		req.Artifacts = []eval.Pattern{"out"}
		res := r.run(t, req)
		require.Equal(t, "made", string(res.Artifacts[0].Content.Data))
	})
}
