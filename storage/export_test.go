package storage

import "github.com/crucible-eval/crucible/pkg/eval"

// Swept is the backend's store as its sweeper uses it.
func (b *Backend) Swept() eval.Sweeper { return b.sweeper }
