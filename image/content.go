package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/spare-compute/spare"
)

// A Content is an image, or an index of several, with all that it is made of at hand: it
// can be pushed to a hub, or be the Source of a Store. Close lets go of its files.
type Content struct {
	Digest    spare.Digest // of the manifest or index
	Blobs     []Blob       // layers first, the manifest last
	Platforms []string     // that it is built for
	Source
	documents []spare.Digest
	close     func() error
}

// Document reports whether a part is a manifest or an index, which is read as such.
func (c *Content) Document(d spare.Digest) bool { return slices.Contains(c.documents, d) }

// Close removes what was made on the way.
func (c *Content) Close() error {
	if c.close == nil {
		return nil
	}
	return c.close()
}

// Size is how many bytes all parts have together.
func (c *Content) Size() (n int64) {
	for _, b := range c.Blobs {
		n += b.Size
	}
	return n
}

// FromSource lists what a manifest or index is made of. Of an index, only lists the
// platforms that are wanted, or none for all of them.
func FromSource(ctx context.Context, d spare.Digest, from Source, only ...string) (*Content, error) {
	get := func(d spare.Digest, config bool) ([]byte, error) {
		if !config {
			return from.Manifest(ctx, d)
		}
		return configuration(ctx, Blob{Digest: d, Size: -1}, from)
	}
	p, err := Parts(d, get, only...)
	if err != nil {
		return nil, err
	}
	return &Content{Digest: d, Blobs: p.Blobs, Platforms: p.Platforms, Source: from, documents: p.documents}, nil
}

// A Composition is what an image or an index is made of.
type Composition struct {
	Blobs     []Blob // layers first, the manifest that was asked for last
	Platforms []string
	documents []spare.Digest
}

// Parts reads documents, beginning with d, and lists all that they name. get returns a
// manifest, or a configuration, by digest; what an index names and get does not find
// (ErrNotFound) is left out, as long as something is found.
func Parts(d spare.Digest, get func(d spare.Digest, config bool) ([]byte, error), only ...string) (Composition, error) {
	c := composer{get: get}
	for _, text := range only {
		p, err := parsePlatform(text)
		if err != nil {
			return c.Composition, err
		}
		c.only = append(c.only, p)
	}
	err := c.document(d, 0)
	return c.Composition, err
}

type composer struct {
	Composition
	get  func(spare.Digest, bool) ([]byte, error)
	only []platform
}

func (c *composer) read(d spare.Digest, config bool) ([]byte, error) {
	raw, err := c.get(d, config)
	switch {
	case err != nil:
		return nil, err
	case len(raw) > maxDocument:
		return nil, refuse("its manifest or configuration has more than %d MiB", maxDocument>>20)
	case spare.Sum(raw) != d:
		return nil, fmt.Errorf("its part %s: %w", d.Short(), ErrCorrupt)
	}
	return raw, nil
}

func (c *composer) add(b Blob) {
	if !slices.Contains(c.Blobs, b) {
		c.Blobs = append(c.Blobs, b)
	}
}

func (c *composer) document(d spare.Digest, depth int) error {
	raw, err := c.read(d, false)
	if err != nil {
		return err
	}
	doc, err := readDocument(raw)
	switch {
	case err != nil:
		return err
	case doc.Manifests == nil:
		err = c.image(doc)
	case depth == 2:
		err = refuse("it is an index of indexes of indexes")
	default:
		err = c.index(doc, depth)
	}
	c.documents = append(c.documents, d)
	c.add(Blob{Digest: d, Size: int64(len(raw))})
	return err
}

const maxIndex = 64 // images in an index that are looked at

func (c *composer) index(doc document, depth int) error {
	found := 0
	var offered []string
	for _, m := range doc.Manifests {
		if m.Platform == nil || m.Platform.OS == "" || m.Platform.OS == "unknown" {
			continue
		}
		offered = append(offered, m.Platform.String())
		if len(c.only) > 0 && !slices.ContainsFunc(c.only, m.Platform.serves) {
			continue
		}
		if found == maxIndex {
			return refuse("it is an index of more than %d images", maxIndex)
		}
		b, err := m.blob()
		if err == nil {
			err = c.document(b.Digest, depth+1)
		}
		if errors.Is(err, ErrNotFound) {
			continue
		}
		if err != nil {
			return err
		}
		found++
	}
	switch {
	case found > 0:
		return nil
	case len(c.only) > 0:
		return wrongPlatform(c.only[0], offered)
	}
	return fmt.Errorf("%w: none of the images that its index names is there", ErrNotFound)
}

func (c *composer) image(doc document) error {
	config, layers, err := doc.parts()
	if err != nil {
		return err
	}
	raw, err := c.read(config.Digest, true)
	if err != nil {
		return err
	}
	set, err := readSettings(raw, len(layers))
	if err != nil {
		return err
	}
	if p := set.platform.String(); !slices.Contains(c.Platforms, p) {
		c.Platforms = append(c.Platforms, p)
	}
	for _, l := range layers {
		c.add(l)
	}
	c.add(config)
	return nil
}

// local is a Source of files: documents in memory, blobs as parts of files.
type local struct {
	docs  map[spare.Digest][]byte
	blobs map[spare.Digest]section
}

// section is a part of a file.
type section struct {
	path         string
	offset, size int64
}

func (s section) open() (io.Reader, io.Closer, error) {
	f, err := os.Open(s.path)
	if err != nil {
		return nil, nil, err
	}
	return io.NewSectionReader(f, s.offset, s.size), f, nil
}

// document reads all of a section that holds a manifest, index or configuration.
func (s section) document() ([]byte, error) {
	r, c, err := s.open()
	if err != nil {
		return nil, err
	}
	defer func() { _ = c.Close() }()
	var b bounded
	_, err = io.Copy(&b, r)
	return b.bytes, err
}

// Manifest implements Source.
func (l *local) Manifest(_ context.Context, d spare.Digest) ([]byte, error) {
	if raw, ok := l.docs[d]; ok {
		return raw, nil
	}
	s, ok := l.blobs[d]
	if !ok {
		return nil, fmt.Errorf("part %s: %w", d.Short(), ErrNotFound)
	}
	return s.document()
}

// Blob implements Source.
func (l *local) Blob(_ context.Context, b Blob, offset int64, w io.Writer) error {
	d := b.Digest
	if raw, ok := l.docs[d]; ok && offset <= int64(len(raw)) {
		_, err := w.Write(raw[offset:])
		return err
	}
	s, ok := l.blobs[d]
	if !ok || offset > s.size {
		return fmt.Errorf("part %s: %w", d.Short(), ErrNotFound)
	}
	r, c, err := section{s.path, s.offset + offset, s.size - offset}.open()
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }()
	_, err = io.CopyBuffer(w, r, make([]byte, copyBuffer))
	return err
}
