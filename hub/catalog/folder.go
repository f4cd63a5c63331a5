package catalog

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/spare-compute/spare"
)

// A folder is an App's or engine's folder as it was read:
//
//	manifest.json
//	app/main.py …                  or beside the manifest
//	template.json, templates/*.json
//	schema.json, schemas/*.json
//	presets/*.json                 named after the file unless they say otherwise
type folder struct {
	root      *os.Root
	app       spare.App
	templates []spare.Template
	schemas   []spare.Schema
	presets   []spare.Preset
	warnings  []string
}

// openFolder reads a folder's manifest. The caller closes root.
func openFolder(dir string, kind spare.Kind) (*folder, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("read the folder: %w", err)
	}
	f := &folder{root: root}
	if err := f.readManifest(kind); err != nil {
		root.Close()
		return nil, err
	}
	return f, nil
}

// readRest reads all else that the catalogue understands.
func (f *folder) readRest() error {
	for _, read := range []func() error{f.findEntrypoint, f.settleEnvironment, f.readTemplates, f.readSchemas, f.readPresets} {
		if err := read(); err != nil {
			return err
		}
	}
	return nil
}

func (f *folder) readManifest(kind spare.Kind) error {
	raw, err := f.read(manifestFile)
	if err != nil {
		return err
	}
	if f.app, f.warnings, err = ParseManifest(raw); err != nil {
		return err
	}
	said := f.app.Kind
	switch {
	case kind == "" && (said == "" || said == spare.KindApp):
		return fieldError(manifestFile+".type", "an engine must say what it is", string(spare.KindPartitioner), string(spare.KindAssembler))
	case kind == "":
	case said == "":
		f.app.Kind = kind
	case said != kind:
		return &FieldError{Path: manifestFile + ".type", Message: fmt.Sprintf("this is the folder of a %s, and it was pushed as %s", said, kind)}
	}
	return nil
}

// findEntrypoint looks where the entrypoint lies: in app/, or beside the manifest.
func (f *folder) findEntrypoint() error {
	for _, root := range []string{"app", "."} {
		info, err := f.root.Stat(path.Join(root, f.app.Entrypoint))
		if err == nil && info.Mode().IsRegular() {
			f.app.Root = root
			return nil
		}
	}
	return &FieldError{Path: manifestFile + ".entrypoint", Message: fmt.Sprintf("there is no file app/%s in the folder; put the program there", f.app.Entrypoint)}
}

// read reads a small file, nothing if it is not there.
func (f *folder) read(name string) ([]byte, error) {
	file, err := f.root.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	defer file.Close()
	raw, err := io.ReadAll(io.LimitReader(file, maxJSON+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	if len(raw) > maxJSON {
		return nil, refuse("%s is larger than the %d bytes that are read", name, maxJSON)
	}
	return raw, nil
}

// each reads one file and all of a folder, by name.
func (f *folder) each(one, dir string, take func(name string, raw []byte) error) error {
	var names []string
	if one != "" {
		names = append(names, one)
	}
	entries, err := fs.ReadDir(f.root.FS(), dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read %s: %w", dir, err)
	}
	for _, e := range entries {
		if path.Ext(e.Name()) == ".json" && !e.IsDir() {
			names = append(names, path.Join(dir, e.Name()))
		}
	}
	for _, name := range names {
		raw, err := f.read(name)
		if err != nil {
			return err
		}
		if raw == nil {
			continue
		}
		if err := take(name, raw); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

func (f *folder) readTemplates() error {
	return f.each("template.json", "templates", func(_ string, raw []byte) error {
		t, warnings, err := ParseTemplate(raw)
		if err != nil {
			return err
		}
		if slices.ContainsFunc(f.templates, func(o spare.Template) bool { return o.ID == t.ID }) {
			return &FieldError{Path: "id", Message: fmt.Sprintf("template %s is in the folder twice", t.ID)}
		}
		f.templates = append(f.templates, t)
		f.warnings = append(f.warnings, warnings...)
		return nil
	})
}

// readSchemas reads schemas. One that does not say its id goes by what the folder's
// template calls it, or else by the App's own name and version.
func (f *folder) readSchemas() error {
	id, version := f.app.Name, f.app.Version
	for _, t := range f.templates {
		if t.SchemaID != "" {
			id = t.SchemaID
			if t.SchemaVersion != "" {
				version = t.SchemaVersion
			}
			break
		}
	}
	return f.each("schema.json", "schemas", func(_ string, raw []byte) error {
		s, err := readSchema(raw, id, version)
		if err != nil {
			return err
		}
		f.schemas = append(f.schemas, s)
		return nil
	})
}

func (f *folder) readPresets() error {
	return f.each("", "presets", func(name string, raw []byte) error {
		p, err := readPreset(raw, "", strings.TrimSuffix(path.Base(name), ".json"))
		if err != nil {
			return err
		}
		f.presets = append(f.presets, p)
		return nil
	})
}

// means reports whether a template's tag is for the App of this folder.
func (f *folder) means(tag string) bool {
	if tag == "" {
		return true
	}
	t, err := spare.ParseTag(tag)
	if err != nil || t.Name != f.app.Name || f.app.Kind != spare.KindApp {
		return false
	}
	v, err := spare.ParseVersion(f.app.Version)
	return err == nil && t.Matches(v)
}

// templateOf finds the template of the folder that a preset belongs to.
func (f *folder) templateOf(p spare.Preset) (spare.Template, error) {
	if p.Template == "" && len(f.templates) == 1 {
		return f.templates[0], nil
	}
	var known []string
	for _, t := range f.templates {
		if t.ID == p.Template {
			return t, nil
		}
		known = append(known, t.ID)
	}
	return spare.Template{}, fieldError(fmt.Sprintf("presets/%s.template", p.ID), fmt.Sprintf("%.80q is no template of this folder", p.Template), known...)
}
