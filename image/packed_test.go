package image_test

import (
	"archive/tar"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/spare-compute/spare/image"
	"github.com/spare-compute/spare/image/imagetest"
)

// An engine unpacks for itself: what would be too much there is refused here.
func TestAttack_PackedBombs(t *testing.T) {
	small := image.Options{Limits: image.Limits{Bytes: 8 << 20, Entries: 100, Names: 64 << 10}}
	files := func(prefix string, n int) (all []File) {
		for i := range n {
			all = append(all, File{Name: fmt.Sprintf("%s%d", prefix, i)})
		}
		return all
	}
	long := strings.Repeat("x/", 900)
	var links []File
	for i := range 50 {
		links = append(links, File{Name: fmt.Sprintf("l%d", i), Kind: tar.TypeSymlink, Link: long})
	}
	big := func(name string) []byte { return imagetest.Tar(t, File{Name: name, Text: imagetest.Noise(5 << 20)}) }
	for name, c := range map[string]struct {
		layers [][]byte
		opt    image.Options
		want   string
	}{
		"sparse":                {[][]byte{sparse(t, 1<<40)}, image.Options{}, "unpacks to more than 65536 MiB"},
		"sparse within bounds":  {[][]byte{sparse(t, 10<<30)}, image.Options{}, "times as much is the most"},
		"one layer":             {[][]byte{imagetest.Tar(t, File{Name: "a", Text: imagetest.Noise(9 << 20)})}, small, "a layer unpacks to more than 8 MiB"},
		"layers together":       {[][]byte{big("a"), big("b")}, small, "its layers unpack to more than 8 MiB"},
		"files of all layers":   {[][]byte{imagetest.Tar(t, files("a", 60)...), imagetest.Tar(t, files("b", 60)...)}, small, "its layers hold more than 100 files"},
		"folders that are made": {[][]byte{imagetest.Tar(t, File{Name: strings.Repeat("d/", 120) + "f"})}, small, "more than 100 files"},
		"long links":            {[][]byte{imagetest.Tar(t, links...)}, small, "names and links have more than 64 KiB"},
		"a device":              {[][]byte{imagetest.Tar(t, File{Name: "sda", Kind: tar.TypeBlock})}, image.Options{}, "is a device"},
		"an unknown kind":       {[][]byte{imagetest.Tar(t, File{Name: "x", Kind: 'S' + 1})}, image.Options{}, "unknown kind"},
	} {
		t.Run(name, func(t *testing.T) {
			refused(t, imagetest.Make(t, imagetest.Options{}, c.layers...), c.opt, image.Packed, c.want)
		})
	}
}

func TestPacked_WhoKeepsACopyIsToldThatAnImageIsGone(t *testing.T) {
	var gone []string
	s, err := image.Open(t.TempDir(), image.Options{Quota: room, Gone: func(id string) { gone = append(gone, id) }})
	must(t, err)
	defer s.Close()
	packed, unpacked := small(t, 1), small(t, 1)
	p, err := s.Ensure(t.Context(), packed.Ref(), image.Packed, packed.Source())
	must(t, err)
	q, err := s.Ensure(t.Context(), unpacked.Ref(), image.Unpacked, unpacked.Source())
	must(t, err)
	must(t, s.SetQuota(t.Context(), 0))
	if len(gone) > 0 {
		t.Errorf("%q is gone while it is in use", gone)
	}
	p.Release()
	q.Release()
	must(t, s.SetQuota(t.Context(), 0))
	if want := []string{"sha256:" + string(packed.Config)}; !slices.Equal(gone, want) {
		t.Errorf("told of %q, want %q", gone, want)
	}
}
