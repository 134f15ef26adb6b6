package sandbox

import "context"

func (r *runtime) Probe(ctx context.Context) (Isolation, error) {
	level := LevelNamespaces
	if r.groups == nil {
		level = LevelNamespacesRlimit
	}
	return Isolation{Level: level}, nil
}
