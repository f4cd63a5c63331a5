package catalog

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/egress"
	"github.com/spare-compute/spare/hub/blob"
	"github.com/spare-compute/spare/hub/store"
	"github.com/spare-compute/spare/image"
)

var _ Images = (*Shelf)(nil)

// ImageBlobs is where the parts of images lie; blob.Disk is one.
type ImageBlobs interface {
	Stat(d spare.Digest) (int64, error)
	Open(d spare.Digest, offset int64) (io.ReadCloser, int64, error)
	Partial(d spare.Digest, size int64) (blob.Writer, error)
	PartialOf(sender string, d spare.Digest, size int64) (blob.Writer, error)
}

// Resolver asks a registry what a name means; image.Registries is one.
type Resolver interface {
	Resolve(ctx context.Context, ref image.Ref, cred image.Credential) (image.Ref, error)
}

// ShelfConfig is what a Shelf works with.
type ShelfConfig struct {
	Store      store.Images
	Apps       store.Catalogue
	Blobs      ImageBlobs
	Registries Resolver
	Now        func() time.Time // nil = time.Now
}

// A Shelf is the images that a hub holds under their usual names, so that nodes get them
// from it where no registry is in reach. Their parts are ordinary blobs, among which lie
// other people's inputs and results: who pushes an image has what is in it, and shows so
// by sending it, unless it is in an image here already, which everybody may use.
type Shelf struct {
	ShelfConfig

	mu   sync.Mutex
	sent map[sentPart]time.Time // when; forgotten at a restart, which costs a transfer
}

// sentPart is a part that an owner has sent whole.
type sentPart struct {
	owner  string
	digest spare.Digest
}

// sentFor is how long a sent part counts as its sender's. A part that is in no image by
// then is swept.
const sentFor = 24 * time.Hour

// NewShelf makes a Shelf.
func NewShelf(cfg ShelfConfig) *Shelf {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Shelf{ShelfConfig: cfg, sent: map[sentPart]time.Time{}}
}

// note remembers who sent a part.
func (s *Shelf) note(owner string, d spare.Digest) {
	now := s.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	for part, at := range s.sent {
		if now.Sub(at) > sentFor {
			delete(s.sent, part)
		}
	}
	s.sent[sentPart{owner, d}] = now
}

// holds tells which parts an owner need not send: what he sent, and what images are made
// of.
func (s *Shelf) holds(ctx context.Context, owner string) (func(spare.Digest) bool, error) {
	all, err := s.Store.Images(ctx)
	if err != nil {
		return nil, err
	}
	shared := map[spare.Digest]bool{}
	for _, im := range all {
		for _, d := range im.Parts {
			shared[d] = true
		}
	}
	return func(d spare.Digest) bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		at, own := s.sent[sentPart{owner, d}]
		return shared[d] || own && s.Now().Sub(at) <= sentFor
	}, nil
}

func parseImage(text string) (image.Ref, error) {
	ref, err := image.ParseRef(text)
	if err != nil {
		return ref, &Refused{Sentence: err.Error(), Err: err}
	}
	return ref, nil
}

// Pin fixes a name to the image that it means now: the one on this hub, or else the one
// that the registry has.
func (s *Shelf) Pin(ctx context.Context, text, username, token string) (pinned string, onHub bool, err error) {
	ref, err := parseImage(text)
	if err != nil {
		return "", false, err
	}
	all, err := s.Store.Images(ctx)
	if err != nil {
		return "", false, err
	}
	for _, im := range all { // of each name the last push comes first
		if ref.Digest == im.Digest || ref.Digest == "" && ref.Name == im.Name {
			return ref.Pin(im.Digest).String(), true, nil
		}
	}
	if ref.Digest != "" {
		return ref.String(), false, nil
	}
	found, err := s.Registries.Resolve(ctx, ref, image.Credential{Username: username, Token: token})
	if err != nil {
		return "", false, explainResolve(ref, err)
	}
	return found.String(), false, nil
}

func explainResolve(ref image.Ref, err error) error {
	push := fmt.Sprintf("`spare image push %s ARCHIVE`", ref.Name)
	switch {
	case errors.Is(err, egress.ErrRefused):
		return refuse("%v; put the image on this hub instead with %s", err, push)
	case errors.Is(err, image.ErrNotFound):
		return refuse("%v; or put it on this hub with %s", err, push)
	}
	return &Refused{Sentence: fmt.Sprintf("%v; where this hub reaches no registry, put the image on it with %s", err, push), Err: err}
}

// Missing tells which parts of an image its owner has to send. The others are here, and
// will stay for as long as it takes.
func (s *Shelf) Missing(ctx context.Context, parts []image.Blob, owner string) ([]image.Blob, error) {
	holds, err := s.holds(ctx, owner)
	if err != nil {
		return nil, err
	}
	missing := []image.Blob{}
	for _, p := range parts {
		if !holds(p.Digest) {
			missing = append(missing, p)
			continue
		}
		size, err := s.Blobs.Stat(p.Digest)
		switch {
		case errors.Is(err, blob.ErrNotFound):
			missing = append(missing, p)
		case err != nil:
			return nil, err
		case size != p.Size:
			return nil, refuse("part %s has %d bytes here, not %d", p.Digest.Short(), size, p.Size)
		default:
			if err := s.refresh(p); err != nil {
				return nil, err
			}
		}
	}
	return missing, nil
}

// refresh counts a blob's age from now on: nothing names it yet, and what is old and not
// named is swept.
func (s *Shelf) refresh(p image.Blob) error {
	w, err := s.Blobs.Partial(p.Digest, p.Size)
	if err != nil {
		return err
	}
	return w.Close()
}

// Begin takes a part of an image from its owner, or goes on with one.
func (s *Shelf) Begin(ctx context.Context, p image.Blob, owner string) (blob.Writer, error) {
	holds, err := s.holds(ctx, owner)
	if err != nil {
		return nil, err
	}
	var w blob.Writer
	if holds(p.Digest) {
		w, err = s.Blobs.Partial(p.Digest, p.Size)
	} else if w, err = s.Blobs.PartialOf(owner, p.Digest, p.Size); err == nil {
		w = &partOf{Writer: w, sent: func() { s.note(owner, p.Digest) }}
		if w.Offset() == p.Size && p.Size > 0 && w.Commit() == nil {
			w, err = s.Blobs.Partial(p.Digest, p.Size) // all of it came, just before the hub ended
		}
	}
	if errors.Is(err, blob.ErrMismatch) {
		return nil, &Refused{Sentence: err.Error(), Err: err}
	}
	return w, err
}

// partOf is a part on its way, which is its sender's once it is whole.
type partOf struct {
	blob.Writer
	sent func()
}

func (p *partOf) Commit() error {
	err := p.Writer.Commit()
	if err == nil {
		p.sent()
	}
	return err
}

// Put makes a name mean an image whose parts are all here.
func (s *Shelf) Put(ctx context.Context, name string, digest spare.Digest, owner string) (store.Image, error) {
	ref, err := parseImage(name)
	if err != nil {
		return store.Image{}, err
	}
	if ref.Digest != "" {
		return store.Image{}, refuse("image name %q: leave out the digest; the image itself says it", name)
	}
	all, err := s.Store.Images(ctx)
	if err != nil {
		return store.Image{}, err
	}
	for _, im := range all {
		if im.Name == ref.Name && im.Owner != owner {
			return store.Image{}, forbid("image", im.Name, im.Owner)
		}
	}
	im, err := s.compose(ctx, digest, owner)
	if err != nil {
		return store.Image{}, err
	}
	im.Name, im.Digest, im.Owner, im.PushedAt = ref.Name, digest, owner, s.Now().UTC()
	if err := s.Store.PutImage(ctx, im); err != nil {
		return store.Image{}, fmt.Errorf("store image %s: %w", ref.Name, err)
	}
	return im, nil
}

// compose reads an image's documents and makes sure that it is one, and whole.
func (s *Shelf) compose(ctx context.Context, digest spare.Digest, owner string) (store.Image, error) {
	holds, err := s.holds(ctx, owner)
	if err != nil {
		return store.Image{}, err
	}
	parts, err := image.Parts(digest, func(d spare.Digest, _ bool) ([]byte, error) {
		if !holds(d) {
			return nil, fmt.Errorf("part %s: %w", d.Short(), image.ErrNotFound)
		}
		return s.document(d)
	})
	var refused *image.Refused
	switch {
	case errors.As(err, &refused), errors.Is(err, image.ErrNotFound), errors.Is(err, image.ErrCorrupt):
		return store.Image{}, &Refused{Sentence: fmt.Sprintf("image sha256:%s: %v", digest, err), Err: err}
	case err != nil:
		return store.Image{}, err
	}
	missing, err := s.Missing(ctx, parts.Blobs, owner)
	if err != nil {
		return store.Image{}, err
	}
	if len(missing) > 0 {
		return store.Image{}, refuse("image sha256:%s: %d of its %d parts are not here, %s among them; send them first", digest, len(missing), len(parts.Blobs), missing[0].Digest.Short())
	}
	im := store.Image{Platforms: parts.Platforms}
	for _, b := range parts.Blobs {
		im.Size += b.Size
		im.Parts = append(im.Parts, b.Digest)
	}
	return im, nil
}

func (s *Shelf) document(d spare.Digest) ([]byte, error) {
	r, _, err := s.Blobs.Open(d, 0)
	if errors.Is(err, blob.ErrNotFound) {
		return nil, fmt.Errorf("part %s: %w", d.Short(), image.ErrNotFound)
	}
	if err != nil {
		return nil, err
	}
	defer func() { _ = r.Close() }()
	const most = 5 << 20 // more than any document may have: package image says so then
	return io.ReadAll(io.LimitReader(r, most))
}

// List returns the images by name, of each name the last push first.
func (s *Shelf) List(ctx context.Context) ([]store.Image, error) { return s.Store.Images(ctx) }

// Remove takes away what a name means: all that was pushed under it or, where the name
// has a digest, that alone. What an active App runs in stays.
func (s *Shelf) Remove(ctx context.Context, name, owner string, any bool) ([]store.Image, error) {
	ref, err := parseImage(name)
	if err != nil {
		return nil, err
	}
	all, err := s.Store.Images(ctx)
	if err != nil {
		return nil, err
	}
	var gone []store.Image
	for _, im := range all {
		named := im.Name == ref.Name || ref.Digest != "" && strings.HasPrefix(im.Name, ref.Name+":")
		if !named || ref.Digest != "" && ref.Digest != im.Digest {
			continue
		}
		if im.Owner != owner && !any {
			return nil, forbid("image", im.Name, im.Owner)
		}
		gone = append(gone, im)
	}
	if len(gone) == 0 {
		return nil, &UnknownError{What: "image", Name: ref.String(), Hint: "`spare image list` shows those that are here"}
	}
	left := slices.DeleteFunc(all, func(im store.Image) bool {
		return slices.ContainsFunc(gone, func(g store.Image) bool { return g.Name == im.Name && g.Digest == im.Digest })
	})
	for _, im := range gone {
		if err := s.unused(ctx, im, left); err != nil {
			return nil, err
		}
	}
	for _, im := range gone {
		if err := s.Store.DeleteImage(ctx, im.Name, im.Digest); err != nil {
			return nil, err
		}
	}
	return gone, nil
}

// unused refuses to take away what the nodes need for an App that takes jobs, unless it
// is among what is left.
func (s *Shelf) unused(ctx context.Context, im store.Image, left []store.Image) error {
	for _, other := range left {
		if other.Digest == im.Digest {
			return nil // it stays under its other name
		}
	}
	for _, kind := range []spare.Kind{spare.KindApp, spare.KindPartitioner, spare.KindAssembler} {
		apps, err := s.Apps.Apps(ctx, kind)
		if err != nil {
			return err
		}
		for _, a := range apps {
			if ref, err := image.ParseRef(a.Environment.Image); err == nil && a.Active && a.ImageOnHub && ref.Digest == im.Digest {
				return fmt.Errorf("%w: %s %s runs in image %s: deactivate it first", store.ErrConflict, word(a.Kind), a.Tag(), im.Name)
			}
		}
	}
	return nil
}

// Parts are the blobs of an image on this hub, which a node that runs an App in it may
// fetch. The reference is pinned.
func (s *Shelf) Parts(ctx context.Context, pinned string) ([]spare.Digest, error) {
	ref, err := image.ParseRef(pinned)
	if err != nil {
		return nil, err
	}
	all, err := s.Store.Images(ctx)
	if err != nil {
		return nil, err
	}
	for _, im := range all {
		if im.Digest == ref.Digest {
			return im.Parts, nil
		}
	}
	return nil, fmt.Errorf("image %s: %w on this hub", ref, store.ErrNotFound)
}
