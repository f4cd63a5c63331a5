package catalog

import (
	"context"
	"os"

	"github.com/spare-compute/spare/bundle"
)

func unpackFile(ctx context.Context, path, dir string, lim bundle.Limits) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return bundle.Unpack(ctx, f, dir, lim)
}
