package catalog

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/google/uuid"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/bundle"
	"github.com/spare-compute/spare/hub/store"
)

const (
	maxArchive = 4 << 30 // bytes of a pushed archive
	maxFiles   = 50_000  // in it
	maxContent = 8 << 30 // bytes of them together
)

// A Pushed is what a push stored, and what was odd about it.
type Pushed struct {
	App       spare.App
	Templates []spare.Template
	Presets   []spare.Preset
	Warnings  []string
}

// Push stores an App or engine from its folder as an archive (tar, tar.gz, tar.zst or
// zip, at the top or in one folder), with the templates, schemas and presets that lie in
// it. Nothing of it is stored if any of it is wrong. The empty kind means an engine of
// the kind that its manifest says. The version is not active until Activate.
func (c *Catalog) Push(ctx context.Context, kind spare.Kind, archive io.Reader, owner string) (Pushed, error) {
	return c.PushSigned(ctx, kind, archive, owner, nil)
}

// PushSigned is Push of an App with its publisher's signed manifest, which must be of a
// publisher that this hub knows and cover exactly what is pushed. Nil is none.
func (c *Catalog) PushSigned(ctx context.Context, kind spare.Kind, archive io.Reader, owner string, signed []byte) (Pushed, error) {
	work, err := os.MkdirTemp(c.work, "push-*")
	if err != nil {
		return Pushed{}, fmt.Errorf("make a folder to unpack the push in: %w", err)
	}
	defer os.RemoveAll(work)
	file := filepath.Join(work, "archive")
	if err := spool(ctx, archive, file); err != nil {
		return Pushed{}, err
	}
	dir := filepath.Join(work, "folder")
	if err := os.Mkdir(dir, 0o700); err != nil {
		return Pushed{}, fmt.Errorf("make a folder to unpack the push in: %w", err)
	}
	if err := unpack(ctx, file, dir); err != nil {
		return Pushed{}, err
	}
	if err := os.Remove(file); err != nil {
		return Pushed{}, fmt.Errorf("unpack the push: %w", err)
	}
	if dir, err = top(dir); err != nil {
		return Pushed{}, err
	}
	f, err := openFolder(dir, kind)
	if err != nil {
		return Pushed{}, err
	}
	defer f.root.Close()
	if err := f.readRest(); err != nil {
		return Pushed{}, err
	}
	f.app.Signed = signed
	return c.keep(ctx, f, owner, work, false)
}

// unpack lays the archive out in dir.
func unpack(ctx context.Context, file, dir string) error {
	f, err := os.Open(file)
	if err != nil {
		return fmt.Errorf("unpack the push: %w", err)
	}
	defer f.Close()
	err = bundle.Unpack(ctx, f, dir, bundle.Limits{Files: maxFiles, Bytes: maxContent})
	var refused *bundle.Refused
	if errors.As(err, &refused) {
		return &Refused{Sentence: "the archive is " + refused.Error(), Err: err}
	}
	if err != nil {
		return fmt.Errorf("unpack the push: %w", err)
	}
	return nil
}

// spool writes what is pushed to a file: a zip can only be read from its end.
func spool(ctx context.Context, archive io.Reader, file string) error {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("receive the push: %w", err)
	}
	defer f.Close()
	n, err := io.Copy(f, io.LimitReader(archive, maxArchive+1))
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return fmt.Errorf("receive the push: %w", err)
	}
	if n > maxArchive {
		return refuse("the archive is larger than %d GiB; leave out what the App does not need", maxArchive>>30)
	}
	if n == 0 {
		return refuse("the archive is empty; send the App's folder as tar, tar.gz, tar.zst or zip")
	}
	return f.Close()
}

// top is the folder that the manifest lies in: the archive's own top, or its one folder.
func top(dir string) (string, error) {
	has := func(dir string) bool {
		info, err := os.Lstat(filepath.Join(dir, manifestFile))
		return err == nil && info.Mode().IsRegular()
	}
	if has(dir) {
		return dir, nil
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return "", fmt.Errorf("read the push: %w", err)
	}
	var found []string
	for _, e := range entries {
		if sub := filepath.Join(dir, e.Name()); e.IsDir() && e.Name() != "__MACOSX" && has(sub) {
			found = append(found, sub)
		}
	}
	if len(found) != 1 {
		return "", refuse("no %s at the top of the archive or in its one folder; pack the App's folder", manifestFile)
	}
	return found[0], nil
}

// keep stores a folder that was read: what hangs on the App first, the App last, so that
// an interrupted push is one that did not happen.
func (c *Catalog) keep(ctx context.Context, f *folder, owner, work string, active bool) (Pushed, error) {
	have, err := c.before(ctx, f, owner)
	if err != nil {
		return Pushed{}, err
	}
	pushed := Pushed{Warnings: f.warnings}
	f.app.Owner = owner
	if err := c.check(ctx, f, owner); err != nil {
		return pushed, err
	}
	adoptImage(&f.app)
	if err := c.pin(ctx, &f.app); err != nil {
		pushed.Warnings = append(pushed.Warnings, err.Error()) // activation tries again
	}
	packed, _, err := pack(f, work)
	if err != nil {
		return pushed, err
	}
	if f.app.Bundle, f.app.BundleSize, err = c.blobs.PutFile(ctx, packed); err != nil {
		return pushed, fmt.Errorf("store the bundle of %s: %w", f.app.Tag(), err)
	}
	warnings, err := c.vouch(f, have)
	if err != nil {
		return pushed, err
	}
	pushed.Warnings = append(pushed.Warnings, warnings...)
	if err := c.dropSchema(ctx, f, have); err != nil {
		return pushed, err
	}
	for _, s := range f.schemas {
		if err := c.store.PutSchema(ctx, s); err != nil {
			return pushed, fmt.Errorf("store schema %s: %w", s.ID, err)
		}
	}
	now := time.Now().UTC() // creation counts for the first of a key alone: the store keeps it
	for _, t := range f.templates {
		t.CreatedAt, t.UpdatedAt = now, now
		t, err := c.store.PutTemplate(ctx, t)
		if err != nil {
			return pushed, fmt.Errorf("store template %s: %w", t.ID, err)
		}
		pushed.Templates = append(pushed.Templates, t)
	}
	for _, p := range f.presets {
		if err := c.store.PutPreset(ctx, p); err != nil {
			return pushed, fmt.Errorf("store preset %s: %w", p.ID, err)
		}
		pushed.Presets = append(pushed.Presets, p)
	}
	f.app.ID, f.app.CreatedAt, f.app.UpdatedAt, f.app.Active = uuid.NewString(), now, now, active
	if pushed.App, err = c.store.PutApp(ctx, f.app); err != nil {
		return pushed, fmt.Errorf("store %s %s: %w", word(f.app.Kind), f.app.Tag(), err)
	}
	return pushed, nil
}

// before finds the version that a push replaces, if there is one, and refuses to touch
// what belongs to another owner. Two spellings of a version are one version.
func (c *Catalog) before(ctx context.Context, f *folder, owner string) (*spare.App, error) {
	apps, err := c.store.Apps(ctx, f.app.Kind)
	if err != nil {
		return nil, err
	}
	var have *spare.App
	for _, a := range apps {
		if a.Name != f.app.Name {
			continue
		}
		if a.Owner != owner {
			return nil, forbid(word(a.Kind), a.Name, a.Owner)
		}
		if spare.CompareVersions(a.Version, f.app.Version) == 0 {
			have = &a
		}
	}
	if have != nil && have.Version != f.app.Version {
		f.warnings = append(f.warnings, fmt.Sprintf("%s: version %s is pushed as %s, which is the same", manifestFile, f.app.Version, have.Version))
		f.app.Version = have.Version
	}
	return have, nil
}

// check holds the folder's templates and presets against what they name.
func (c *Catalog) check(ctx context.Context, f *folder, owner string) error {
	for i, t := range f.templates {
		if err := c.own(ctx, t.ID, owner); err != nil {
			return err
		}
		if t.App == "" {
			t.App = f.app.Tag()
		}
		app, err := f.app, error(nil)
		if !f.means(t.App) {
			if app, err = c.Resolve(ctx, spare.KindApp, t.App); err != nil {
				return fmt.Errorf("template %s: %w", t.ID, err)
			}
		}
		schema, err := c.schemaFor(ctx, f, t, app)
		if err != nil {
			return fmt.Errorf("template %s: %w", t.ID, err)
		}
		t.Owner = owner
		if t, err = c.settle(ctx, t, schema); err != nil {
			return fmt.Errorf("template %s: %w", t.ID, err)
		}
		f.templates[i] = t
	}
	for i, p := range f.presets {
		t, err := f.templateOf(p)
		if err != nil {
			return err
		}
		f.presets[i].Template = t.ID
		schema, err := c.schemaFor(ctx, f, t, f.app)
		if err != nil {
			return fmt.Errorf("preset %s: %w", p.ID, err)
		}
		if err := checkPreset(p, schema); err != nil {
			return fmt.Errorf("preset %s: %w", p.ID, err)
		}
	}
	return nil
}

// schemaFor finds a template's schema in the folder that is pushed, or else in the store.
func (c *Catalog) schemaFor(ctx context.Context, f *folder, t spare.Template, app spare.App) (spare.Schema, error) {
	id, version := t.SchemaID, t.SchemaVersion
	if id == "" {
		id, version = app.Name, app.Version
	}
	for _, s := range f.schemas {
		if s.ID == id && (s.Version == version || version == "") {
			return s, nil
		}
	}
	if t.SchemaID == "" && f.means(t.App) {
		return spare.Schema{}, nil // pushed without one
	}
	return c.schemaOf(ctx, t, app)
}

// dropSchema lets parameters be anything again when a version that had a schema is
// pushed without one.
func (c *Catalog) dropSchema(ctx context.Context, f *folder, have *spare.App) error {
	if have == nil {
		return nil
	}
	for _, s := range f.schemas {
		if s.ID == have.Name && s.Version == have.Version {
			return nil
		}
	}
	s, err := c.store.Schema(ctx, have.Name, have.Version)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	s.Body = []byte("{}")
	return c.store.PutSchema(ctx, s)
}

// pack writes the folder as a canonical bundle: the same content has the same digest,
// however it was packed when it came.
func pack(f *folder, work string) (string, spare.Digest, error) {
	file, err := os.CreateTemp(work, "bundle-*")
	if err != nil {
		return "", "", fmt.Errorf("pack %s: %w", f.app.Tag(), err)
	}
	defer file.Close()
	packed, err := bundle.Pack(f.root.Name(), file)
	if err == nil {
		err = file.Close()
	}
	if err != nil {
		return "", "", fmt.Errorf("pack %s: %w", f.app.Tag(), err)
	}
	return file.Name(), packed.Digest, nil
}
