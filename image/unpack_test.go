package image_test

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/image"
	"github.com/spare-compute/spare/image/imagetest"
)

type File = imagetest.File

func Test_LayersAreLaidOverEachOther(t *testing.T) {
	dir := imagetest.Dir
	im := imagetest.Make(t, imagetest.Options{Env: []string{"PATH=/bin", "A=1"}},
		imagetest.Gzip(t, imagetest.Tar(t, dir("./"), dir("etc/"), File{Name: "./etc/keep", Text: "1"}, File{Name: "etc/gone", Text: "1"},
			dir("opq"), File{Name: "opq/low", Text: "1"}, dir("dir"), File{Name: "dir/sub/deep", Text: "1"},
			File{Name: "tool", Text: "#!", Mode: 0o755}, File{Name: "lib", Kind: tar.TypeSymlink, Link: "usr/lib"})),
		imagetest.Zstd(t, imagetest.Tar(t, File{Name: "etc/.wh.gone"}, File{Name: "opq/high", Text: "2"}, File{Name: "opq/.wh..wh..opq"},
			File{Name: ".wh.dir"}, File{Name: "etc/keep", Text: "22"}, File{Name: "hard", Kind: tar.TypeLink, Link: "etc/keep"},
			File{Name: "low", Kind: tar.TypeLink, Link: "tool"}, File{Name: "lib/x", Text: "2"}, File{Name: ".wh..wh.plnk/1.2", Text: "aufs"})),
		imagetest.Tar(t, File{Name: "dir/new", Text: "3"}, File{Name: ".wh.never-there"}, File{Name: "far", Kind: tar.TypeSymlink, Link: "/../../etc/shadow"}),
	)
	s := open(t, t.TempDir(), room)
	got := ensure(t, s, im.Ref(), image.Unpacked, im.Source())
	want := []string{
		"dir/", "dir/new", "etc/", "etc/keep", "far -> /../../etc/shadow", "hard", "lib/", "lib/x", "low", "opq/", "opq/high", "tool",
	}
	if files := list(t, got.Folder); !slices.Equal(files, want) {
		t.Errorf("it holds %q\nwant %q", files, want)
	}
	if got.ID != "sha256:"+string(im.Config) || !slices.Equal(got.Env, []string{"PATH=/bin", "A=1"}) {
		t.Errorf("%+v", got)
	}
	if text := read(t, got.Folder, "hard") + read(t, got.Folder, "low"); text != "22#!" {
		t.Errorf("the hard links hold %q", text)
	}
}

func Test_ModesAndTimesAreKeptOnlyAsFarAsTheyMatter(t *testing.T) {
	im := imagetest.Make(t, imagetest.Options{}, imagetest.Tar(t,
		File{Name: "d", Kind: tar.TypeDir, Mode: 0o1777}, File{Name: "d/secret", Mode: 0o600}, File{Name: "su", Mode: 0o6755}, File{Name: "x", Mode: 0o100}))
	old := umask(0o077)
	defer umask(old)
	got := ensure(t, open(t, t.TempDir(), room), im.Ref(), image.Unpacked, im.Source())
	for name, want := range map[string]fs.FileMode{"d": 0o755, "d/secret": 0o644, "su": 0o755, "x": 0o755} {
		info, err := os.Stat(filepath.Join(got.Folder, name))
		must(t, err)
		if mode := info.Mode() &^ fs.ModeDir; mode != want {
			t.Errorf("%s has mode %v, want %v", name, mode, want)
		}
		if name == "x" && info.ModTime().Unix() != 1_700_000_000 {
			t.Errorf("its time is %v", info.ModTime())
		}
	}
}

func Test_DevicesAndPipesAreLeftOut(t *testing.T) {
	im := imagetest.Make(t, imagetest.Options{}, imagetest.Tar(t,
		imagetest.Dir("dev"), File{Name: "dev/mem", Kind: tar.TypeChar}, File{Name: "dev/sda", Kind: tar.TypeBlock}, File{Name: "pipe", Kind: tar.TypeFifo}, File{Name: "ok"}))
	got := ensure(t, open(t, t.TempDir(), room), im.Ref(), image.Unpacked, im.Source())
	if files := list(t, got.Folder); !slices.Equal(files, []string{"dev/", "ok"}) {
		t.Errorf("it holds %q", files)
	}
}

// attacks are layers that no image needs, and what is said of them.
var attacks = map[string]struct {
	files []File
	want  string
}{
	"name that climbs":            {[]File{{Name: "../out"}}, "climbs out"},
	"name that climbs later":      {[]File{{Name: "a/../../out"}}, "climbs out"},
	"absolute name":               {[]File{{Name: "/etc/cron.d/x"}}, "absolute"},
	"empty part":                  {[]File{{Name: "a//b"}}, "empty part"},
	"write through a link":        {[]File{{Name: "l", Kind: tar.TypeSymlink, Link: "/tmp"}, {Name: "l/x"}}, "behind a link"},
	"folder through a link":       {[]File{{Name: "l", Kind: tar.TypeSymlink, Link: ".."}, imagetest.Dir("l/d")}, "behind a link"},
	"link through a link":         {[]File{{Name: "l", Kind: tar.TypeSymlink, Link: "/"}, {Name: "l/k", Kind: tar.TypeSymlink, Link: "x"}}, "behind a link"},
	"hard link through a link":    {[]File{{Name: "l", Kind: tar.TypeSymlink, Link: "/etc"}, {Name: "h", Kind: tar.TypeLink, Link: "l/passwd"}}, "hard link to what is no file"},
	"hard link out":               {[]File{{Name: "h", Kind: tar.TypeLink, Link: "../../etc/passwd"}}, "hard link"},
	"absolute hard link":          {[]File{{Name: "h", Kind: tar.TypeLink, Link: "/etc/passwd"}}, "hard link"},
	"hard link to nothing":        {[]File{{Name: "h", Kind: tar.TypeLink, Link: "etc/passwd"}}, "hard link to what is no file"},
	"hard link to a folder":       {[]File{imagetest.Dir("d"), {Name: "h", Kind: tar.TypeLink, Link: "d"}}, "hard link to a folder"},
	"hard link to itself":         {[]File{{Name: "h", Kind: tar.TypeLink, Link: "h"}}, "itself"},
	"whiteout that climbs":        {[]File{{Name: "../.wh.etc"}}, "climbs out"},
	"whiteout of the parent":      {[]File{{Name: "d/.wh..."}}, "removes what is not below"},
	"whiteout of the folder":      {[]File{{Name: "d/.wh.."}}, "removes what is not below"},
	"whiteout of nothing":         {[]File{{Name: "d/.wh."}}, "removes what is not below"},
	"files in a whiteout":         {[]File{{Name: ".wh.d/x"}}, "mark of removal"},
	"root that is a link":         {[]File{{Name: "./", Kind: tar.TypeSymlink, Link: "/"}}, "root and no folder"},
	"unknown kind":                {[]File{{Name: "x", Kind: '7'}}, "unknown kind"},
	"too long a part":             {[]File{{Name: strings.Repeat("n", 256)}}, "too long"},
	"too long a name":             {[]File{{Name: strings.Repeat("n/", 1500) + "x"}}, "too long"},
	"too deep":                    {[]File{{Name: strings.Repeat("d/", 200) + "x"}}, "too deep"},
	"link with too long a target": {[]File{{Name: "l", Kind: tar.TypeSymlink, Link: strings.Repeat("x", 3000)}}, "too long a target"},
}

func TestAttack_LayersThatLeadElsewhereAreRefused(t *testing.T) {
	for name, a := range attacks {
		t.Run(name, func(t *testing.T) {
			base := imagetest.Tar(t, File{Name: "etc/base"}, File{Name: "base-link", Kind: tar.TypeSymlink, Link: "/etc"})
			im := imagetest.Make(t, imagetest.Options{}, base, imagetest.Gzip(t, imagetest.Tar(t, a.files...)))
			refused(t, im, image.Options{}, image.Unpacked, a.want)
		})
	}
}

// A link in a layer below is no way out for the layer above it: what is laid through it
// takes its place.
func TestAttack_LayersAboveDoNotWriteThroughLinksBelow(t *testing.T) {
	outside := t.TempDir()
	im := imagetest.Make(t, imagetest.Options{},
		imagetest.Tar(t, File{Name: "l", Kind: tar.TypeSymlink, Link: outside}, File{Name: "f", Text: "low"}),
		imagetest.Tar(t, File{Name: "l/x", Text: "bad"}),
		imagetest.Tar(t, File{Name: "f/sub", Text: "bad"}),
	)
	got := ensure(t, open(t, t.TempDir(), room), im.Ref(), image.Unpacked, im.Source())
	if files := list(t, got.Folder); !slices.Equal(files, []string{"f/", "f/sub", "l/", "l/x"}) {
		t.Errorf("it holds %q", files)
	}
	if files := list(t, outside); len(files) > 0 {
		t.Errorf("outside lies %q", files)
	}
}

func TestAttack_HardLinkBelowThroughALinkIsRefused(t *testing.T) {
	im := imagetest.Make(t, imagetest.Options{},
		imagetest.Tar(t, File{Name: "l", Kind: tar.TypeSymlink, Link: "/etc"}),
		imagetest.Tar(t, File{Name: "h", Kind: tar.TypeLink, Link: "l/passwd"}))
	refused(t, im, image.Options{}, image.Unpacked, "hard link to what is no file")
	im = imagetest.Make(t, imagetest.Options{},
		imagetest.Tar(t, File{Name: "l", Kind: tar.TypeSymlink, Link: "/etc/passwd"}),
		imagetest.Tar(t, File{Name: "h", Kind: tar.TypeLink, Link: "l"}))
	refused(t, im, image.Options{}, image.Unpacked, "hard link to what is no file")
}

func TestAttack_LaterEntriesReplaceLinksInsteadOfFollowingThem(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "victim")
	must(t, os.WriteFile(outside, []byte("mine"), 0o644))
	im := imagetest.Make(t, imagetest.Options{}, imagetest.Tar(t,
		File{Name: "a", Kind: tar.TypeSymlink, Link: outside}, File{Name: "a", Text: "theirs"},
		File{Name: "b", Kind: tar.TypeSymlink, Link: filepath.Dir(outside)}, imagetest.Dir("b"), File{Name: "b/victim", Text: "theirs"},
		imagetest.Dir("c"), File{Name: "c/x"}, File{Name: "c", Text: "a file now"}))
	got := ensure(t, open(t, t.TempDir(), room), im.Ref(), image.Unpacked, im.Source())
	if text := read(t, outside); text != "mine" {
		t.Errorf("outside it says %q", text)
	}
	if files := list(t, got.Folder); !slices.Equal(files, []string{"a", "b/", "b/victim", "c"}) {
		t.Errorf("it holds %q", files)
	}
}

func TestAttack_Bombs(t *testing.T) {
	zeros := imagetest.Tar(t, File{Name: "zeros", Text: strings.Repeat("\x00", 128<<20)})
	small := image.Options{Limits: image.Limits{Bytes: 8 << 20, Entries: 1000}}
	many := make([]File, 2000)
	for i := range many {
		many[i] = File{Name: fmt.Sprintf("f%d", i)}
	}
	var folders []File
	for i := range 10 {
		folders = append(folders, File{Name: strings.Repeat(fmt.Sprintf("d%d/", i), 120) + "x"})
	}
	half := make([]File, 600)
	for i := range half {
		half[i] = File{Name: fmt.Sprintf("h%d", i)}
	}
	for name, c := range map[string]struct {
		im   *imagetest.Image
		opt  image.Options
		want string
	}{
		"gzip": {imagetest.Make(t, imagetest.Options{}, imagetest.Gzip(t, zeros)), small, "unpacks to more than 8 MiB"},
		"zstd": {imagetest.Make(t, imagetest.Options{}, imagetest.Zstd(t, zeros)), image.Options{}, "times as much is the most"},
		"wide window": {
			imagetest.Make(t, imagetest.Options{}, imagetest.Zstd(t, []byte(imagetest.Noise(4<<20)), zstd.WithWindowSize(512<<20), zstd.WithSingleSegment(false))),
			image.Options{},
			"no whole tar",
		},
		"sparse":        {imagetest.Make(t, imagetest.Options{}, sparse(t, 1<<40)), image.Options{}, "times as much is the most"},
		"many files":    {imagetest.Make(t, imagetest.Options{}, imagetest.Gzip(t, imagetest.Tar(t, many...))), small, "more than 1000 files"},
		"many folders":  {imagetest.Make(t, imagetest.Options{}, imagetest.Tar(t, folders...)), small, "more than 1000 files"},
		"many together": {imagetest.Make(t, imagetest.Options{}, imagetest.Tar(t, half...), imagetest.Tar(t, append(half, File{Name: "one"})...)), small, "more than 1000 files"},
		"tiny files take blocks": {
			imagetest.Make(t, imagetest.Options{}, imagetest.Tar(t, many[:900]...)),
			image.Options{Limits: image.Limits{Bytes: 2 << 20, Entries: 1000}},
			"unpacks to more than 2 MiB",
		},
		"cut short":  {imagetest.Make(t, imagetest.Options{}, imagetest.Tar(t, File{Name: "a", Text: strings.Repeat("x", 5000)})[:3000]), image.Options{}, "no whole tar"},
		"cut gzip":   {imagetest.Make(t, imagetest.Options{}, imagetest.Gzip(t, imagetest.Tar(t, File{Name: "a", Text: imagetest.Noise(9000)}))[:5000]), image.Options{}, "no whole tar"},
		"no archive": {imagetest.Make(t, imagetest.Options{}, bytes.Repeat([]byte("not a tar "), 100)), image.Options{}, "no whole tar"},
	} {
		t.Run(name, func(t *testing.T) { refused(t, c.im, c.opt, image.Unpacked, c.want) })
	}
}

func Test_NamesMayHoldAnyBytesThatLinuxTakes(t *testing.T) {
	names := []string{"A", "a", "back\\slash", "colon:", "no-utf8-\xff", "ümlaut"}
	var files []File
	for _, n := range names {
		files = append(files, File{Name: n, Text: n})
	}
	im := imagetest.Make(t, imagetest.Options{}, imagetest.Tar(t, files...))
	dir := t.TempDir()
	got := ensure(t, open(t, dir, room), im.Ref(), image.Unpacked, im.Source())
	if all := list(t, got.Folder); len(all) != len(names) {
		t.Errorf("it holds %q", all)
	}
	again := ensure(t, open(t, dir, room), im.Ref(), image.Unpacked, nil)
	if text := read(t, again.Folder, "no-utf8-\xff"); text != "no-utf8-\xff" {
		t.Errorf("it holds %q", text)
	}
}

func TestAttack_ManifestsAndConfigurations(t *testing.T) {
	layer := imagetest.Tar(t, File{Name: "a"})
	var env []string
	for i := range 300 {
		env = append(env, fmt.Sprintf("V%d=1", i))
	}
	set := func(key string, v any) func(map[string]any) { return func(m map[string]any) { m[key] = v } }
	configType := func(kind string) func(map[string]any) {
		return func(m map[string]any) { m["config"].(map[string]any)["mediaType"] = kind }
	}
	for want, opt := range map[string]imagetest.Options{
		"10000 layers":            {Change: func(m map[string]any) { m["layers"] = slices.Repeat(m["layers"].([]any)[:1], 10_000) }},
		"128 layers":              {Change: func(m map[string]any) { m["layers"] = slices.Repeat(m["layers"].([]any)[:1], 128) }},
		"lies elsewhere":          {LayerType: "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"},
		"no layer of files":       {LayerType: "application/vnd.in-toto+json"},
		"no image to run":         {Change: configType("application/vnd.cncf.helm.config.v1+json")},
		"first Docker format":     {Change: set("schemaVersion", 1)},
		"neither":                 {Change: set("manifests", []any{})},
		"says that it is":         {Change: set("mediaType", "application/vnd.oci.image.index.v1+json")},
		"1 layers and its config": {Change: func(m map[string]any) { m["layers"] = m["layers"].([]any)[:1] }},
		"300 variables":           {Env: env},
		"which is none":           {Env: []string{"no equals sign"}},
		"this machine needs":      {Arch: "s390x"},
		"only SHA-256":            {Change: func(m map[string]any) { m["config"].(map[string]any)["digest"] = "md5:" + strings.Repeat("0", 32) }},
		"more than 4 MiB":         {Change: func(m map[string]any) { m["config"].(map[string]any)["size"] = 5 << 20 }},
		"bytes, it says":          {Change: func(m map[string]any) { m["layers"].([]any)[0].(map[string]any)["size"] = -1 }},
	} {
		layers := [][]byte{layer, imagetest.Tar(t, File{Name: "b"})}
		for _, form := range []image.Form{image.Unpacked, image.Packed} {
			refused(t, imagetest.Make(t, opt, layers...), image.Options{}, form, want)
		}
	}
}

func TestAttack_WrongDigestsAreNotTaken(t *testing.T) {
	layer := imagetest.Gzip(t, imagetest.Tar(t, File{Name: "a", Text: "good"}))
	other := imagetest.Gzip(t, imagetest.Tar(t, File{Name: "a", Text: "evil"}))
	swapped := func(which func(*imagetest.Image) spare.Digest, with []byte) *imagetest.Image {
		im := imagetest.Make(t, imagetest.Options{}, layer)
		im.Blobs[which(im)] = with
		return im
	}
	for name, im := range map[string]*imagetest.Image{
		"layer":          swapped(func(im *imagetest.Image) spare.Digest { return im.Layers[0] }, other),
		"longer layer":   swapped(func(im *imagetest.Image) spare.Digest { return im.Layers[0] }, append(bytes.Clone(layer), 'x')),
		"configuration":  swapped(func(im *imagetest.Image) spare.Digest { return im.Config }, []byte(`{"os":"linux"}`)),
		"manifest":       swapped(func(im *imagetest.Image) spare.Digest { return im.Digest }, []byte(`{"schemaVersion":2}`)),
		"unpacked layer": imagetest.Make(t, imagetest.Options{DiffIDs: []spare.Digest{spare.Sum([]byte("other"))}}, layer),
	} {
		for _, form := range []image.Form{image.Unpacked, image.Packed} {
			s := open(t, t.TempDir(), room)
			if _, err := s.Ensure(t.Context(), im.Ref(), form, im.Source()); err == nil || !strings.Contains(err.Error(), image.ErrCorrupt.Error()) {
				t.Errorf("%s, %s: %v", name, form, err)
			}
			if st, err := s.Stats(); err != nil || st.Images+st.Layers > 0 {
				t.Errorf("%s, %s: %+v %v is kept", name, form, st, err)
			}
		}
	}
}

func Test_AnIndexGivesTheImageForThisMachine(t *testing.T) {
	build := func(arch string) *imagetest.Image {
		return imagetest.Make(t, imagetest.Options{Arch: arch}, imagetest.Tar(t, File{Name: "arch", Text: arch}))
	}
	index := imagetest.Index(t, map[string]*imagetest.Image{"amd64": build("amd64"), "arm64": build("arm64")})
	for _, arch := range []string{"amd64", "arm64"} {
		s, err := image.Open(t.TempDir(), image.Options{Quota: room, Platform: "linux/" + arch})
		must(t, err)
		defer s.Close()
		got := ensure(t, s, index.Ref(), image.Unpacked, index.Source())
		if text := read(t, got.Folder, "arch"); text != arch {
			t.Errorf("on %s it is %s", arch, text)
		}
	}
	refused(t, index, image.Options{Platform: "linux/riscv64"}, image.Unpacked, "built for linux/")
	// An image that lies about itself in its index is found out by its configuration.
	refused(t, imagetest.Index(t, map[string]*imagetest.Image{"amd64": build("s390x")}), image.Options{Platform: "linux/amd64"}, image.Unpacked, "linux/s390x")
}
