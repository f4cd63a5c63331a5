package engine

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
)

// An archive reaches the engine through a filter. The image in it must be the one that
// was asked for, by the digest of its configuration, and for this machine; names that it
// would take in the engine's store, where they could stand in for the owner's own, and
// annotations, with which images have told engines to do without their walls, are left out.

const (
	maxConfig = 4 << 20 // bytes of a manifest or configuration; real ones have a few thousand
	maxLayers = 512     // more than any engine stacks
)

// imageConfig is what an image's configuration says that matters here.
type imageConfig struct {
	Architecture string `json:"architecture"`
	OS           string `json:"os"`
	Config       struct {
		Env     []string            `json:"Env"`
		Volumes map[string]struct{} `json:"Volumes"`
	} `json:"config"`
	RootFS struct {
		DiffIDs []string `json:"diff_ids"`
	} `json:"rootfs"`
}

// check refuses what an engine must not see.
func (c imageConfig) check(arch string) error {
	if c.OS != "linux" || goArch(c.Architecture) != arch {
		return fmt.Errorf("the image is for %s on %s; this engine runs linux on %s", orNothing(c.OS), orNothing(c.Architecture), arch)
	}
	for _, v := range c.Config.Env {
		if name, _, found := strings.Cut(v, "="); !found || !plainName(name) {
			return fmt.Errorf("the image sets variable %.60q, which has no name or no value", v)
		}
	}
	for v := range c.Config.Volumes {
		if !path.IsAbs(v) || path.Clean(v) != v || v == "/" || strings.ContainsAny(v, ":,\"\r\n") {
			return fmt.Errorf("the image declares a volume at %.60q", v)
		}
	}
	if n := len(c.RootFS.DiffIDs); n == 0 || n > maxLayers {
		return fmt.Errorf("the image has %d layers; engines take 1 to %d", n, maxLayers)
	}
	return nil
}

func orNothing(s string) string {
	if s == "" {
		return "nothing named"
	}
	return s
}

// filter copies a docker-save archive and checks it.
type filter struct {
	id     string // "sha256:…"
	arch   string
	config *imageConfig
	listed bool // its manifest came by
}

// copy reads an archive to its end and writes what the engine may have of it.
func (f *filter) copy(w io.Writer, r io.Reader) error {
	in, out := tar.NewReader(r), tar.NewWriter(w)
	for {
		h, err := in.Next()
		switch {
		case errors.Is(err, io.EOF):
			if f.config == nil || !f.listed {
				return fmt.Errorf("the archive does not hold the image %s", f.id)
			}
			return out.Close()
		case err != nil:
			return fmt.Errorf("read the image's archive: %w", err)
		}
		if err := f.entry(out, h, in); err != nil {
			return err
		}
	}
}

func (f *filter) entry(out *tar.Writer, h *tar.Header, r io.Reader) error {
	name := path.Clean(h.Name)
	switch {
	case h.Typeflag == tar.TypeDir:
		return nil
	case h.Typeflag != tar.TypeReg:
		return fmt.Errorf("the image's archive holds %.60q, which is no plain file", h.Name)
	case path.IsAbs(name) || name == ".." || strings.HasPrefix(name, "../"):
		return fmt.Errorf("the image's archive holds %.60q, outside of it", h.Name)
	case slices.Contains([]string{"index.json", "oci-layout", "repositories"}, name):
		return nil // a second account of the same image, with names and annotations
	case name == "manifest.json" || strings.Contains(name, f.hex()):
		raw, err := io.ReadAll(io.LimitReader(r, maxConfig+1))
		if err != nil {
			return fmt.Errorf("read the image's archive: %w", err)
		}
		if name == "manifest.json" {
			raw, err = f.manifest(raw)
		} else {
			err = f.configuration(raw)
		}
		if err != nil {
			return err
		}
		return put(out, name, int64(len(raw)), bytes.NewReader(raw))
	}
	return put(out, name, h.Size, r)
}

func (f *filter) hex() string { return strings.TrimPrefix(f.id, "sha256:") }

func put(out *tar.Writer, name string, size int64, r io.Reader) error {
	if err := out.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, Size: size}); err != nil {
		return err
	}
	_, err := io.Copy(out, r)
	return err
}

// manifest takes the names out of manifest.json.
func (f *filter) manifest(raw []byte) ([]byte, error) {
	type image struct {
		Config   string   `json:"Config"`
		RepoTags []string `json:"RepoTags"`
		Layers   []string `json:"Layers"`
	}
	var images []image
	if len(raw) > maxConfig || json.Unmarshal(raw, &images) != nil || len(images) != 1 || f.listed {
		return nil, errors.New("the image's archive has no manifest.json of one image")
	}
	f.listed = true
	m := images[0]
	if !strings.Contains(path.Clean(m.Config), f.hex()) {
		return nil, fmt.Errorf("the archive holds image %.80q, not %s", m.Config, f.id)
	}
	m.Config, m.RepoTags = path.Clean(m.Config), nil
	for i, l := range m.Layers {
		m.Layers[i] = path.Clean(l)
	}
	return json.Marshal([]image{m})
}

// configuration must be what the image's ID is the digest of.
func (f *filter) configuration(raw []byte) error {
	sum := sha256.Sum256(raw)
	if len(raw) > maxConfig || hex.EncodeToString(sum[:]) != f.hex() {
		return fmt.Errorf("the archive's image is not %s: its configuration has another digest", f.id)
	}
	var c imageConfig
	if err := json.Unmarshal(raw, &c); err != nil {
		return fmt.Errorf("the image's configuration cannot be read: %w", err)
	}
	if err := c.check(f.arch); err != nil {
		return err
	}
	f.config = &c
	return nil
}
