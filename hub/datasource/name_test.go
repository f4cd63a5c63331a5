package datasource

import (
	"net/url"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestCleanName_IsSafeOnEverySystem(t *testing.T) {
	for dirty, want := range map[string]string{
		"clip.mp4":                        "clip.mp4",
		"../../etc/passwd":                "passwd",
		`C:\Users\me\a.txt`:               "a.txt",
		"..":                              "input",
		"":                                "input",
		"   ":                             "input",
		".hidden":                         "hidden",
		"a\x00b\nc.txt":                   "abc.txt",
		`what?<is>"this"|*:.mp4`:          "what__is__this____.mp4",
		"trailing. . ":                    "trailing",
		"CON":                             "_CON",
		"con.txt":                         "_con.txt",
		"console.txt":                     "console.txt",
		"COM1.mp4":                        "_COM1.mp4",
		"Ünïcode 東京.mp4":                  "Ünïcode 東京.mp4",
		"bad\xffbytes.mp4":                "bad_bytes.mp4",
		"gpj.\u202eexe":                   "gpj.exe",
		strings.Repeat("ä", 300) + ".mp4": strings.Repeat("ä", 98) + ".mp4",
		strings.Repeat("x", 300):          strings.Repeat("x", 200),
		"a." + strings.Repeat("y", 300):   ("a." + strings.Repeat("y", 300))[:200],
	} {
		if got := CleanName(dirty); got != want {
			t.Errorf("%q became %q, want %q", dirty, got, want)
		}
	}
}

func TestFileName_TheSubmitterThenTheServerThenTheAddress(t *testing.T) {
	asked, _ := url.Parse("https://a.example/films/clip%20one.mp4?x=1")
	root, _ := url.Parse("https://a.example/")
	answered, _ := url.Parse("https://cdn.example/9f86d081")
	for _, test := range []struct {
		given, disposition string
		asked              *url.URL
		want               string
	}{
		{"mine.mp4", `attachment; filename="theirs.mp4"`, asked, "mine.mp4"},
		{"", `attachment; filename="theirs.mp4"`, asked, "theirs.mp4"},
		{"", `attachment; filename*=UTF-8''na%C3%AFve.mp4`, asked, "naïve.mp4"},
		{"", `attachment; filename="../../../x.sh"`, asked, "x.sh"},
		{"", `attachment; filename=`, asked, "clip one.mp4"},
		{"", "", asked, "clip one.mp4"},
		{"", "", root, "9f86d081"},
	} {
		if got := fileName(test.given, test.disposition, test.asked, answered); got != test.want {
			t.Errorf("%+v: %q", test, got)
		}
	}
	if got := fileName("", "", root, root); got != "input" {
		t.Errorf("nothing to go by: %q", got)
	}
}

func FuzzCleanName(f *testing.F) {
	for _, seed := range []string{"clip.mp4", "../../x", "con.txt", "\xff", "a\u202eb", strings.Repeat("ä", 200)} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got := CleanName(s)
		if got == "" || len(got) > maxName+1 || !utf8.ValidString(got) || strings.ContainsAny(got, "/\\\x00\n:") || strings.Trim(got, ". ") != got {
			t.Fatalf("%q became %q", s, got)
		}
		if again := CleanName(got); again != got {
			t.Fatalf("%q became %q, and that %q", s, got, again)
		}
	})
}
