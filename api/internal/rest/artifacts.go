package rest

import (
	"fmt"
	"path"
	"strconv"

	"github.com/labstack/echo/v4"

	"github.com/crucible-eval/crucible/pkg/eval"
)

// artifactPath is where the bytes of an artifact are. It goes by number,
// because a path may have any characters and slashes of its own.
func artifactPath(id eval.ID, i int) string { return pathOf(id) + "/artifacts/" + strconv.Itoa(i) }

// artifact answers with a file that the program left, byte for byte, or the
// ranges of it that are asked for.
func (a *API) artifact(c echo.Context) error {
	key, err := onlyKey(c)
	if err != nil {
		return err
	}
	e, err := a.ended(c.Request().Context(), key, "artifacts")
	if err != nil {
		return err
	}
	all := e.Result.Artifacts
	i, err := strconv.Atoi(c.Param("index"))
	if err != nil || i < 0 || i >= len(all) {
		return eval.Errorf(eval.KindNotFound, "there is no artifact %q: there are %d, counted from 0", clip(c.Param("index")), len(all))
	}
	if all[i].Error != "" {
		return eval.Errorf(eval.KindNotFound, "the artifact has no content: it %s", all[i].Error)
	}
	return a.serve(c, e, all[i].Content, fmt.Sprintf("artifact%d", i), path.Base(all[i].Path))
}
