package sandbox

import (
	"context"
	"fmt"
)

// openGVisor fails until the level is there.
func openGVisor(context.Context, Config) (Runtime, error) {
	return nil, fmt.Errorf("%w: level %s needs runsc: see https://gvisor.dev/docs/user_guide/install/", ErrUnsupported, LevelGVisor)
}
