package image_test

import (
	"strings"
	"testing"

	"github.com/spare-compute/spare/image"
)

func TestParseRef_ReadsWhatPeopleWrite(t *testing.T) {
	digest := "sha256:" + strings.Repeat("ab", 32)
	for text, want := range map[string]string{
		"registry.test/tools:1":                     "registry.test/tools:1",
		"registry.test:5000/a/b/c":                  "registry.test:5000/a/b/c:latest",
		"localhost/x:tag":                           "localhost/x:tag",
		"registry.test/tools@" + digest:             "registry.test/tools@" + digest,
		"registry.test/tools:1@" + digest:           "registry.test/tools:1@" + digest,
		"registry.test:5000/latest@" + digest:       "registry.test:5000/latest@" + digest,
		"[::1]:5000/tools:1":                        "[::1]:5000/tools:1",
		"registry.test/tools:latest@" + digest:      "registry.test/tools:latest@" + digest,
		"registry.test/library/Debian":              "",
		"":                                          "",
		"registry.test/":                            "",
		"registry.test/a//b":                        "",
		"registry.test/a/../b":                      "",
		"../x":                                      "",
		"registry.test/x:..":                        "",
		"registry.test/x:-o":                        "",
		"registry.test/x@sha256:abc":                "",
		"registry.test/x@md5:" + digest[7:39]:       "",
		"registry.test/x@" + digest + "@again":      "",
		"https://registry.test/x":                   "",
		"user:password@registry.test/x":             "",
		"registry.test/x y":                         "",
		"registry.test/" + strings.Repeat("x", 600): "",
	} {
		ref, err := image.ParseRef(text)
		if (err == nil) != (want != "") || err == nil && ref.String() != want {
			t.Errorf("%q became %q, %v", text, ref, err)
		}
	}
	// A short name means what the usual tools mean by it, spelt out.
	ref, err := image.ParseRef("debian")
	must(t, err)
	if !strings.HasSuffix(ref.Name, "/library/debian:latest") {
		t.Error(ref.Name)
	}
}

// A name that is understood means the same when it is read again in full.
func FuzzParseRef(f *testing.F) {
	for _, s := range []string{"debian", "registry.test:5000/a/b:1", "a@sha256:" + strings.Repeat("0", 64), "[::1]/x", "..", "a:b@c"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		ref, err := image.ParseRef(s)
		if err != nil {
			return
		}
		again, err := image.ParseRef(ref.String())
		if err != nil || again.String() != ref.String() || again.Name != ref.Name || again.Digest != ref.Digest || again.Host() != ref.Host() {
			t.Fatalf("%q became %q, then %q (%v)", s, ref, again, err)
		}
		if strings.Contains("/"+ref.Name+"/", "/../") {
			t.Fatalf("%q climbs", ref)
		}
	})
}
