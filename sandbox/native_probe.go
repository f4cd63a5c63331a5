//go:build darwin || windows

package sandbox

import (
	"context"
	"net"
	"os"
	"path/filepath"

	"github.com/spare-compute/spare"
)

// probeNatively really runs an interpreter inside, beside a file of the owner's and a port
// that listens, which it must not reach.
func probeNatively(ctx context.Context, rt Runtime, walls []string) spare.Capability {
	failed := func(err error) spare.Capability {
		return spare.Capability{Runtime: rt.Name(), Reason: err.Error()}
	}
	dir, err := os.MkdirTemp("", "spare-probe-")
	if err != nil {
		return failed(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	file := filepath.Join(dir, "owners")
	if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
		return failed(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return failed(err)
	}
	defer func() { _ = l.Close() }()
	return probeBeside(ctx, rt, file, l.Addr().(*net.TCPAddr).Port, walls)
}
