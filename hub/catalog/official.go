package catalog

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/hub/store"
)

// RegisterOfficial stores the Apps that come with the hub: every folder of apps that has
// a manifest. One that is new is active; one whose content changed stays as active as it
// was; one whose content is stored already is left alone.
func (c *Catalog) RegisterOfficial(ctx context.Context, apps fs.FS) error {
	entries, err := fs.ReadDir(apps, ".")
	if err != nil {
		return fmt.Errorf("read the official Apps: %w", err)
	}
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		sub, err := fs.Sub(apps, e.Name())
		if err != nil {
			return fmt.Errorf("read the official App %s: %w", e.Name(), err)
		}
		if _, err := fs.Stat(sub, manifestFile); err != nil {
			continue
		}
		if err := c.register(ctx, sub); err != nil {
			return fmt.Errorf("register the official App %s: %w", e.Name(), err)
		}
	}
	return nil
}

func (c *Catalog) register(ctx context.Context, app fs.FS) error {
	work, err := os.MkdirTemp(c.work, "official-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	dir := filepath.Join(work, "folder")
	if err := os.CopyFS(dir, app); err != nil {
		return err
	}
	f, err := openFolder(dir, spare.KindApp)
	if err != nil {
		return err
	}
	defer f.root.Close()
	if have, err := c.unchanged(ctx, f, work); err != nil {
		return err
	} else if have != nil {
		return c.renew(ctx, *have)
	}
	if err := errors.Join(f.readRest(), runnable(f.app)); err != nil {
		return err
	}
	pushed, err := c.keep(ctx, f, Official, work, true)
	if err != nil {
		return err
	}
	c.log.Info("registered official App", "app", pushed.App.Tag(), "revision", pushed.App.Revision)
	if len(pushed.App.Signed) == 0 {
		return c.renew(ctx, pushed.App) // says what to do
	}
	return nil
}

// unchanged is what the catalogue holds if that is this very content, else nil: a hub
// that starts again looks no further. It may, because a push stores the App last.
func (c *Catalog) unchanged(ctx context.Context, f *folder, work string) (*spare.App, error) {
	have, err := c.store.App(ctx, f.app.Kind, f.app.Name, f.app.Version)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	file, digest, err := pack(f, work)
	if err != nil {
		return nil, err
	}
	if err := os.Remove(file); err != nil || digest != have.Bundle {
		return nil, err
	}
	if _, err := c.blobs.Stat(digest); err != nil {
		return nil, nil
	}
	return &have, nil
}
