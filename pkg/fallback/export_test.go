package fallback

import "context"

// BringAll is one round of Run.
func (s *Store) BringAll(ctx context.Context) int { return s.bringAll(ctx) }
