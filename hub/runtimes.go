package hub

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spare-compute/spare"
)

// shelveRuntimes stores the bundles of interpreters that lie in a folder, for nodes to
// fetch. Nodes know by themselves what has to be in them. A folder that is not there holds
// none.
func (h *Hub) shelveRuntimes(ctx context.Context) ([]spare.File, error) {
	if h.opt.Runtimes == "" {
		return nil, nil
	}
	entries, err := os.ReadDir(h.opt.Runtimes)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read the folder of runtimes: %w", err)
	}
	var shelved []spare.File
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), ".tar.zst")
		if !ok || !e.Type().IsRegular() {
			continue
		}
		f, err := os.Open(filepath.Join(h.opt.Runtimes, e.Name()))
		if err != nil {
			return nil, fmt.Errorf("read the runtime %s: %w", e.Name(), err)
		}
		digest, size, err := h.blobs.Put(ctx, f)
		_ = f.Close()
		if err != nil {
			return nil, fmt.Errorf("store the runtime %s: %w", e.Name(), err)
		}
		h.opt.Log.Info("serving a runtime", "file", e.Name(), "digest", digest, "bytes", size)
		shelved = append(shelved, spare.File{Name: name, Digest: digest, Size: size})
	}
	return shelved, nil
}
