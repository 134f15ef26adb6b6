package sandbox

import "fmt"

func openLandlock(Config) (Runtime, error) {
	return nil, fmt.Errorf("%w: level %s is not built yet", ErrUnsupported, LevelLandlock)
}

func openNone(Config) (Runtime, error) {
	return nil, fmt.Errorf("%w: level %s is not built yet", ErrUnsupported, LevelNone)
}
