package image

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"time"

	"github.com/spare-compute/spare"
)

// smallTree is how large an image may be to be read through once in each process. Of a
// larger one sizes and times are compared: reading a GiB takes longer than most tasks.
const smallTree = 64 << 20

// build makes an image's folder of its layers' files: hard links, which take no room.
func (s *Store) build(t *node, layerIDs []spare.Digest, dir string, m *meter) (entries []entry, err error) {
	var blocks int64
	for n := range t.all() {
		if n.kind != file {
			blocks += block
		}
	}
	if err := m.take(blocks); err != nil {
		return nil, err
	}
	m.step = reserveStep // for copies
	for n := range t.all() {
		at := path.Join(dir, n.name)
		switch n.kind {
		case folder:
			if err = s.root.Mkdir(at, 0o755); err == nil {
				err = s.root.Chmod(at, 0o755)
			}
		case symlink:
			err = s.root.Symlink(n.to, at)
		case file:
			err = s.linkOrCopy(path.Join(layers, string(layerIDs[n.layer]), n.path), at, n.entry, m)
		default:
			err = errRecord
		}
		if err != nil {
			return nil, fmt.Errorf("put %q in place: %w", n.name, err)
		}
		entries = append(entries, n.entry)
	}
	return entries, nil
}

// linkOrCopy puts a layer's file into an image. A copy stands in for a link that cannot
// be: some file systems know none, and all have a most for one file. It takes the room of
// its content, once for each name.
func (s *Store) linkOrCopy(from, at string, e entry, m *meter) error {
	err := s.link(s.root, from, at)
	if !cannotLink(err) {
		return err
	}
	if err := m.take(max(block, roundUp(e.size))); err != nil {
		return err
	}
	return copyFile(s.root, from, at, e)
}

func copyFile(root *os.Root, from, to string, e entry) (err error) {
	in, err := root.Open(from)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }()
	mode := fs.FileMode(0o644)
	if e.exec {
		mode = 0o755
	}
	out, err := root.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	when := time.Unix(e.mtime, 0)
	return errors.Join(err, out.Chmod(mode), out.Close(), root.Chtimes(to, when, when))
}

var errChanged = errors.New("it is not as it was unpacked")

// verify holds a folder against its record: nothing missing, nothing more, nothing
// changed. It follows no links.
func verify(dir string, entries []entry, full bool) error {
	want := make(map[string]*entry, len(entries))
	for i := range entries {
		if k := entries[i].kind; k == folder || k == file || k == symlink {
			want[entries[i].name] = &entries[i]
		}
	}
	seen := 0
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || p == dir {
			return err
		}
		rel, err := filepath.Rel(dir, p)
		if err != nil {
			return err
		}
		e := want[filepath.ToSlash(rel)]
		if e == nil {
			return fmt.Errorf("%s: %w", rel, errChanged)
		}
		seen++
		return e.same(p, d, full)
	})
	if err == nil && seen != len(want) {
		err = fmt.Errorf("%d of its %d files are missing: %w", len(want)-seen, len(want), errChanged)
	}
	return err
}

func (e *entry) same(p string, d fs.DirEntry, full bool) error {
	changed := fmt.Errorf("%s: %w", e.name, errChanged)
	switch e.kind {
	case folder:
		if !d.IsDir() {
			return changed
		}
	case symlink:
		if to, err := os.Readlink(p); err != nil || to != e.to {
			return changed
		}
	case file:
		info, err := d.Info()
		if err != nil {
			return err
		}
		if !info.Mode().IsRegular() || info.Size() != e.size || info.ModTime().Unix() != e.mtime || info.Mode()&0o100 != 0 != e.exec && !noExec {
			return changed
		}
		if full {
			if d, err := digestFile(p); err != nil || d != digestOf(e.sum[:]) {
				return changed
			}
		}
	}
	return nil
}

// content is how many bytes of files an image has.
func content(entries []entry) (n int64) {
	for _, e := range entries {
		n += e.size
	}
	return n
}
