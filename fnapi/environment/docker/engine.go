package docker

import (
	"context"
	"fmt"
)

// EngineVersion asks the engine at host, see Config.Host, for its version. The error holds
// ErrNoEngine if none answers before ctx ends.
func EngineVersion(ctx context.Context, host string) (version string, err error) {
	engine, err := connect(ctx, host)
	if err != nil {
		return "", err
	}
	defer engine.Close()
	v, err := engine.ServerVersion(ctx)
	if err != nil {
		return "", fmt.Errorf("the Docker engine at %s tells no version: %w", engine.DaemonHost(), err)
	}
	return v.Version, nil
}
