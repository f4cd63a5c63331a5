package image

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/spare-compute/spare"
)

// atOnce is how many layers are fetched and unpacked at a time. Where room is short one
// at a time needs less of it.
var atOnce = []int{3, 1}

// unpackAll has every layer unpacked and joins them.
func (s *Store) unpackAll(ctx context.Context, ref Ref, p plan, from Source) (*Pin, error) {
	var err error
	for _, n := range atOnce {
		group, ctx := errgroup.WithContext(ctx)
		group.SetLimit(n)
		for i := range p.layers {
			group.Go(func() error { return s.layer(ctx, p, i, from) })
		}
		if err = group.Wait(); !errors.Is(err, ErrFull) {
			break
		}
	}
	if err != nil {
		return nil, err
	}
	tree, err := join(len(p.layers), func(i int) (record, error) { return readRecord(s.rec(layers, p.diffIDs[i])) }, s.opt.Limits)
	if err != nil {
		return nil, err
	}
	if err := s.makeTree(p, tree); err != nil {
		return nil, diskError(s.dir, err)
	}
	s.dropDocuments(p)
	return s.keep(ref, Unpacked, p.config.Digest)
}

// layer has one layer unpacked.
func (s *Store) layer(ctx context.Context, p plan, i int, from Source) error {
	id, b := p.diffIDs[i], p.layers[i]
	unlock, err := s.one(ctx, layers+"/"+string(id))
	if err != nil {
		return err
	}
	defer unlock()
	if s.haveLayer(id) {
		if !missing(s.path(blobs, string(b.Digest))) {
			s.dropBlob(b.Digest)
		}
		return nil
	}
	unlockBlob, err := s.one(ctx, blobs+"/"+string(b.Digest))
	if err != nil {
		return err
	}
	defer unlockBlob()
	what := fmt.Sprintf("layer %d of %d", i+1, len(p.layers))
	if err := s.blob(ctx, b, what, from); err != nil {
		return err
	}
	if err := s.unpackLayer(ctx, b, id, what); err != nil {
		return fmt.Errorf("%s: %w", what, diskError(s.dir, err))
	}
	return nil
}

// haveLayer reports whether a layer is unpacked and as it was. The first use in a process
// looks.
func (s *Store) haveLayer(id spare.Digest) bool {
	key := layers + "/" + string(id)
	if missing(s.rec(layers, id)) {
		return false
	}
	if s.wasChecked(key) && !missing(s.path(layers, string(id))) {
		touch(s.rec(layers, id))
		return true
	}
	rec, err := readRecord(s.rec(layers, id))
	// Its files are what images are made of from now on: all of them are read.
	if err != nil || rec.ID != id || verify(s.path(layers, string(id)), rec.entries, true) != nil {
		_ = s.forget(layers, id)
		return false
	}
	s.setChecked(key)
	touch(s.rec(layers, id))
	return true
}

// unpackLayer unpacks a blob aside and moves it into place when it is whole and right.
func (s *Store) unpackLayer(ctx context.Context, b Blob, id spare.Digest, what string) error {
	f, err := os.Open(s.path(blobs, string(b.Digest)))
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	dir, err := os.MkdirTemp(s.path(tmp), "layer-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	var reserved int64
	defer func() { s.settle(reserved) }()
	rec, err := unpack(ctx, f, dir, s.opt.Limits, func(n int64) error {
		err := s.reserve(n, what)
		if err == nil {
			reserved += n
		}
		return err
	})
	if err != nil {
		return err
	}
	if rec.ID != id {
		return fmt.Errorf("%w: uncompressed it has the digest %s and should have %s", ErrCorrupt, rec.ID.Short(), id.Short())
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		return err
	}
	if err := flush(dir); err != nil { // a full disk may say so only now
		return err
	}
	if err := s.install(dir, layers, id, rec); err != nil {
		return err
	}
	s.setChecked(layers + "/" + string(id))
	s.dropBlob(b.Digest)
	return nil
}

// install moves a folder that is whole from tmp to where it belongs, and writes its
// record. If that fails, a folder without a record must not be in the next try's way.
func (s *Store) install(dir, in string, id spare.Digest, rec record) error {
	to := s.path(in, string(id))
	if err := os.RemoveAll(to); err != nil {
		return err
	}
	if err := os.Rename(dir, to); err != nil {
		return err
	}
	if err := writeRecord(s.path(tmp), s.rec(in, id), rec); err != nil {
		return errors.Join(err, os.RemoveAll(to))
	}
	return nil
}

// dropBlob removes what is unpacked now, unless a packed image holds it or another call
// is about to use it.
func (s *Store) dropBlob(d spare.Digest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	items, err := s.scan()
	key := blobs + "/" + string(d)
	if err != nil || s.busy[key] > 1 || slices.ContainsFunc(items, func(it item) bool { return slices.Contains(it.parts(), key) }) {
		return
	}
	_ = s.remove(item{in: blobs, name: string(d)}) // else it goes when room is short
}

func (s *Store) dropDocuments(p plan) {
	for _, d := range append(p.docs, p.config.Digest) {
		s.dropBlob(d)
	}
}

// makeTree makes the image's folder and its record.
func (s *Store) makeTree(p plan, tree *node) error {
	id := p.config.Digest
	dir := path.Join(tmp, "tree-"+string(id))
	defer func() { _ = s.root.RemoveAll(dir) }()
	if err := s.root.RemoveAll(dir); err != nil {
		return err
	}
	if err := s.root.Mkdir(dir, 0o755); err != nil {
		return err
	}
	if err := s.root.Chmod(dir, 0o755); err != nil {
		return err
	}
	m := &meter{what: "the image", most: s.opt.Limits.Bytes, reserve: func(n int64) error { return s.reserve(n, "its folder") }}
	defer func() { s.settle(m.granted) }()
	entries, err := s.build(tree, p.diffIDs, dir, m)
	if err != nil {
		return err
	}
	rec := record{head: head{
		ID: id, Refs: s.refs(p.docs, nil), Env: p.env, Bytes: m.bytes,
		Layers: slices.Compact(slices.Sorted(slices.Values(p.diffIDs))),
	}, entries: entries}
	if err := s.install(s.path(dir), trees, id, rec); err != nil {
		return err
	}
	s.setChecked(trees + "/" + string(id))
	return nil
}

const maxRefs = 16 // manifests that are remembered to lead to an image

// refs puts the manifests that lead to an image before those known already.
func (s *Store) refs(docs []spare.Digest, before []string) []string {
	var refs []string
	for _, d := range docs {
		refs = append(refs, s.refKey(d))
	}
	for _, r := range before {
		if !slices.Contains(refs, r) && len(refs) < maxRefs {
			refs = append(refs, r)
		}
	}
	return refs
}
