package storetest

import (
	"errors"
	"reflect"
	"testing"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/hub/store"
)

func runImages(t *testing.T, open func(*testing.T) store.Store) {
	t.Run("EveryPushIsKept", func(t *testing.T) { imagesAreKept(t, open(t)) })
	t.Run("PartsAreReferenced", func(t *testing.T) { partsAreReferenced(t, open(t)) })
}

func imagesAreKept(t *testing.T, s store.Store) {
	push := func(name, content string, when int) store.Image {
		im := store.Image{
			Name: name, Digest: digest(content), Size: 7, Parts: []spare.Digest{digest(content), digest("layer")},
			Platforms: []string{"linux/amd64"}, Owner: "ann", PushedAt: at(when),
		}
		ok(t, s.PutImage(ctx, im))
		return im
	}
	old := push("registry.test/b:1", "one", 0)
	last := push("registry.test/b:1", "two", 5)
	first := push("registry.test/a:1", "one", 3)
	want := []store.Image{first, last, old}
	if got := must[[]store.Image](t)(s.Images(ctx)); !reflect.DeepEqual(got, want) {
		t.Errorf("images %+v\nwant %+v", got, want)
	}
	old = push("registry.test/b:1", "one", 9) // again: that is what the name means now
	if got := must[[]store.Image](t)(s.Images(ctx)); !reflect.DeepEqual(got, []store.Image{first, old, last}) {
		t.Errorf("after a third push: %+v", got)
	}
	ok(t, s.DeleteImage(ctx, last.Name, last.Digest))
	if err := s.DeleteImage(ctx, last.Name, last.Digest); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("removed twice: %v", err)
	}
	if got := must[[]store.Image](t)(s.Images(ctx)); !reflect.DeepEqual(got, []store.Image{first, old}) {
		t.Errorf("after one was removed: %+v", got)
	}
}

func partsAreReferenced(t *testing.T, s store.Store) {
	im := store.Image{Name: "registry.test/a:1", Digest: digest("manifest"), Parts: []spare.Digest{digest("manifest"), digest("layer")}}
	ok(t, s.PutImage(ctx, im))
	refs := must[map[spare.Digest]struct{}](t)(s.References(ctx))
	for _, d := range im.Parts {
		if _, kept := refs[d]; !kept {
			t.Errorf("part %s would be swept", d.Short())
		}
	}
	ok(t, s.DeleteImage(ctx, im.Name, im.Digest))
	if refs := must[map[spare.Digest]struct{}](t)(s.References(ctx)); len(refs) != 0 {
		t.Errorf("without the image still referenced: %v", refs)
	}
}
