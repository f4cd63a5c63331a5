package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"sync"

	"github.com/gofrs/flock"

	"github.com/spare-compute/spare"
)

// A Pin keeps an image in place until it is released.
type Pin struct {
	image   Image
	release func()
}

// Image is what is pinned.
func (p *Pin) Image() Image { return p.image }

// Release lets the store remove the image when it needs the room.
func (p *Pin) Release() { p.release() }

// Ensure has an image in the store, in one form, and pins it. The reference names its
// digest; what is missing comes from a source. An image that is there needs no source
// and asks it nothing.
func (s *Store) Ensure(ctx context.Context, reference string, form Form, from Source) (*Pin, error) {
	ref, err := ParseRef(reference)
	if err == nil && ref.Digest == "" {
		err = fmt.Errorf("image %s: it names no digest, and a name alone can mean another image tomorrow", ref)
	}
	if err != nil {
		return nil, err
	}
	p, err := s.ensure(ctx, ref, form, from)
	if err != nil {
		return nil, fmt.Errorf("image %s: %w", ref, err)
	}
	return p, nil
}

func (s *Store) ensure(ctx context.Context, ref Ref, form Form, from Source) (*Pin, error) {
	if p := s.warm(ref.Digest, form); p != nil {
		return p, nil
	}
	unlock, err := s.one(ctx, string(form)+" "+string(ref.Digest))
	if err != nil {
		return nil, err
	}
	defer unlock()
	leave, err := s.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	if p := s.warm(ref.Digest, form); p != nil {
		return p, nil
	}
	if id, ok := s.known(ref.Digest, form); ok {
		if p, err := s.adopt(ctx, ref, form, id); p != nil || err != nil {
			return p, err
		}
	}
	if from == nil {
		return nil, fmt.Errorf("%w: it is not on this machine, and there is nowhere to get it from", ErrNotFound)
	}
	plan, err := s.plan(ctx, ref.Digest, from)
	if err != nil {
		return nil, err
	}
	defer s.need(plan.things()...)()
	unlockImage, err := s.one(ctx, form.in()+"/"+string(plan.config.Digest))
	if err != nil {
		return nil, err
	}
	defer unlockImage()
	// Another manifest may have led to the same image before.
	if p, err := s.adopt(ctx, ref, form, plan.config.Digest, plan.docs...); p != nil || err != nil {
		return p, err
	}
	p, err := s.make(ctx, ref, form, plan, from)
	if noSpace(err) {
		// The owner needs the disk more than this store does; what is in use may just fit.
		s.purge()
		if p, err = s.make(ctx, ref, form, plan, from); noSpace(err) {
			for _, l := range plan.layers { // they would only keep the disk full
				_ = os.Remove(s.path(partials, string(l.Digest)))
			}
		}
	}
	return p, err
}

func (s *Store) make(ctx context.Context, ref Ref, form Form, p plan, from Source) (*Pin, error) {
	if form == Packed {
		return s.pack(ctx, ref, p, from)
	}
	return s.unpackAll(ctx, ref, p, from)
}

// warm pins an image that this process has seen to be whole.
func (s *Store) warm(d spare.Digest, form Form) *Pin {
	s.mu.Lock()
	id, ok := s.ready[readyKey{d, form}]
	s.mu.Unlock()
	if !ok {
		return nil
	}
	p, err := s.pin(form, id)
	if err != nil {
		s.mu.Lock()
		delete(s.ready, readyKey{d, form})
		s.mu.Unlock()
		return nil
	}
	return p
}

func (f Form) in() string {
	if f == Packed {
		return packeds
	}
	return trees
}

// pin locks an image that is whole. It fails if the image is being removed.
func (s *Store) pin(form Form, id spare.Digest) (*Pin, error) {
	lock := flock.New(s.pinPath(form.in(), id))
	if ok, err := lock.TryRLock(); !ok {
		return nil, errors.Join(fmt.Errorf("image %s is being removed", id.Short()), err)
	}
	rec := s.rec(form.in(), id)
	h, err := readHead(rec)
	if err == nil && form == Unpacked && missing(s.path(trees, string(id))) {
		err = errChanged
	}
	if err != nil {
		_ = lock.Unlock()
		return nil, err
	}
	touch(rec)
	im := Image{ID: "sha256:" + string(id), Env: h.Env}
	if form == Unpacked {
		im.Folder = s.path(trees, string(id))
		im.Archive = func() (io.ReadCloser, error) {
			return nil, fmt.Errorf("image %s is here as a folder; ask the store for it in the form %q", id.Short(), Packed)
		}
	} else {
		im.Archive = func() (io.ReadCloser, error) { return s.archive(h) }
	}
	return &Pin{image: im, release: sync.OnceFunc(func() { _ = lock.Unlock() })}, nil
}

// refKey is how a record notes what led to it: the same index means another image on
// another machine.
func (s *Store) refKey(d spare.Digest) string { return s.platform.String() + " " + string(d) }

// known finds the image that a manifest led to before.
func (s *Store) known(d spare.Digest, form Form) (id spare.Digest, ok bool) {
	entries, err := os.ReadDir(s.path(form.in()))
	if err != nil {
		return "", false
	}
	for _, e := range entries {
		if path.Ext(e.Name()) != recEnding {
			continue
		}
		if h, err := readHead(s.path(form.in(), e.Name())); err == nil && slices.Contains(h.Refs, s.refKey(d)) {
			return h.ID, true
		}
	}
	return "", false
}

// adopt pins an image that is there, if it is as it was made, and notes what more led to
// it. What is damaged is removed. No image and no error mean that it has to be made.
func (s *Store) adopt(ctx context.Context, ref Ref, form Form, id spare.Digest, docs ...spare.Digest) (*Pin, error) {
	if missing(s.rec(form.in(), id)) {
		return nil, nil
	}
	rec, err := readRecord(s.rec(form.in(), id))
	whole := err == nil && rec.ID == id
	if key := form.in() + "/" + string(id); whole && !s.wasChecked(key) {
		if form == Packed {
			whole = s.wholePacked(rec.head)
		} else {
			whole = verify(s.path(trees, string(id)), rec.entries, content(rec.entries) <= smallTree) == nil
		}
		if whole {
			s.setChecked(key)
		}
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	if !whole {
		return nil, s.forget(form.in(), id)
	}
	if rec.Refs = s.refs(docs, rec.Refs); len(docs) > 0 {
		if err := writeRecord(s.path(tmp), s.rec(form.in(), id), rec); err != nil {
			return nil, diskError(s.dir, err)
		}
	}
	return s.keep(ref, form, id)
}

// keep notes that an image is whole, and pins it.
func (s *Store) keep(ref Ref, form Form, id spare.Digest) (*Pin, error) {
	s.mu.Lock()
	s.ready[readyKey{ref.Digest, form}] = id
	s.mu.Unlock()
	return s.pin(form, id)
}
