package memory_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/crucible-eval/crucible/pkg/eval"
	"github.com/crucible-eval/crucible/pkg/eval/evaltest"
	"github.com/crucible-eval/crucible/pkg/memory"
)

func TestStore(t *testing.T) {
	evaltest.TestStore(t, func(_ *testing.T, now func() time.Time) eval.Store {
		return memory.NewStore(memory.Options{Now: now})
	})
}

func TestBlobs(t *testing.T) {
	evaltest.TestBlobs(t, func(*testing.T) eval.Blobs { return memory.NewBlobs(0) })
}

func TestBlobsAreBounded(t *testing.T) {
	_ = require.New(t)
}
