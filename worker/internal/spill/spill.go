// Package spill moves streams that are too long for a row into blobs.
package spill

import (
	"bytes"
	"context"
	"fmt"

	"github.com/crucible-eval/crucible/pkg/eval"
)

// Streams stores every stream of the result that is longer than eval.InlineBytes and keeps its beginning in Data, so
// that a store takes the result. It may be called again after an error: what is stored already is left alone.
func Streams(ctx context.Context, blobs eval.Blobs, r *eval.Result) error {
	if r == nil {
		return nil
	}
	for _, s := range r.Streams() {
		if s.Blob != "" || len(s.Data) <= eval.InlineBytes {
			continue
		}
		digest, size, err := blobs.Put(ctx, bytes.NewReader(s.Data))
		if err != nil {
			return fmt.Errorf("store a stream of %d bytes: %w", len(s.Data), err)
		}
		s.Blob, s.Bytes, s.Data = digest, size, bytes.Clone(s.Data[:eval.InlineBytes])
	}
	return nil
}
