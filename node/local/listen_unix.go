//go:build !windows

package local

import (
	"net"
	"os"
	"path/filepath"
)

// maxSocketPath is what every system's sun_path holds, the closing zero left out.
const maxSocketPath = 103

// listen opens the socket in the data folder, or, where that path is too long for a
// socket, in a private folder of its own.
func listen(dir string) (l net.Listener, network, address string, remove func(), err error) {
	dir, err = filepath.Abs(dir)
	if err != nil {
		return nil, "", "", nil, err
	}
	path, remove := filepath.Join(dir, "node.sock"), func() {}
	if len(path) > maxSocketPath {
		private, err := os.MkdirTemp("", "spare-node-") // 0700
		if err != nil {
			return nil, "", "", nil, err
		}
		path, remove = filepath.Join(private, "node.sock"), func() { _ = os.RemoveAll(private) }
	}
	_ = os.Remove(path) // of a node that was killed
	l, err = net.Listen("unix", path)
	if err == nil {
		err = os.Chmod(path, 0o600)
	}
	if err != nil {
		remove()
		return nil, "", "", nil, err
	}
	return l, "unix", path, remove, nil
}
