package sandbox

import (
	_ "embed"
	"flag"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

var writeProfile = flag.Bool("profile.update", false, "write testdata/seatbelt.sb anew")

// The suite also runs in folders where its files are not.
//
//go:embed testdata/seatbelt.sb
var wantProfile string

func TestSeatbelt_TheProfileAllowsWhatARunNeedsAndNoMore(t *testing.T) {
	text, err := seatbeltProfile{
		system:   append(slices.Clone(seatbeltSystem), seatbeltFolders("/opt/homebrew/Cellar/python@3.13/3.13.1/bin/python3.13", "/opt/homebrew/opt/python@3.13/Frameworks/Python.framework/Versions/3.13")...),
		readable: []string{"/private/var/folders/x/spare/view", `/Users/ada/Library/Caches/Spare/a "quoted" \ name`},
		writable: []string{"/private/var/folders/x/spare/tmp", "/Users/ada/Library/Caches/Spare/results/ö"},
	}.text()
	if err != nil {
		t.Fatal(err)
	}
	if *writeProfile {
		if err := os.WriteFile("testdata/seatbelt.sb", []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		wantProfile = text
	}
	if text != wantProfile {
		t.Errorf("it differs from testdata/seatbelt.sb; run the test with -profile.update and look at what changed\n%s", text)
	}
	if strings.Count(text, "(") != strings.Count(text, ")") {
		t.Error("a bracket is missing")
	}
	for _, bad := range []string{"(allow network", "(allow default", "(allow file-write* (literal \"/\"", `(subpath "/")`, `(subpath "/Users")`, `(subpath "/Users/ada")`, `(subpath "/dev")`, "(allow iokit", "system-socket"} {
		if strings.Contains(text, bad) {
			t.Errorf("it says %s", bad)
		}
	}
}

func TestSeatbelt_APathCannotAddARule(t *testing.T) {
	for _, name := range []string{"/", "relative", "", "/a/../b", "/a//b", "/a\n(allow default)", "/a\x00", "/a\x7f", "/\ufffd"} {
		if text, err := (seatbeltProfile{readable: []string{name}}).text(); err == nil {
			t.Errorf("%q gives\n%s", name, text)
		}
		if _, err := (seatbeltProfile{writable: []string{name}}).text(); err == nil {
			t.Errorf("%q is writable", name)
		}
	}
	text, err := seatbeltProfile{writable: []string{`/a") (subpath "/etc`, `/a\") (subpath \"/b`}}.text()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`(subpath "/a\") (subpath \"/etc")`, `(subpath "/a\\\") (subpath \\\"/b")`} {
		if !strings.Contains(text, want) {
			t.Errorf("%s is missing from\n%s", want, text)
		}
	}
}

func TestSeatbelt_LimitsAreTheKernelsOwn(t *testing.T) {
	got := seatbeltLimits(Limits{Processes: 10, Files: 20, Disk: 1 << 30, CPU: 90 * time.Second}, 300)
	want := []seatbeltLimit{{4, 0}, {8, 20}, {7, 310}, {1, 1<<30 + 1<<20}, {0, 92}}
	if !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	if got := seatbeltLimits(Limits{}, 0); !slices.Equal(got, []seatbeltLimit{{4, 0}, {8, 1024}, {7, 1024}}) {
		t.Errorf("%v", got)
	}
}

func TestSeatbelt_AnInterpreterBringsItsFoldersAndNoOthers(t *testing.T) {
	for python, want := range map[string]string{
		"/usr/local/bin/python3": "/usr/local/Cellar /usr/local/bin /usr/local/lib /usr/local/opt /usr/local/share /x",
		"/Library/Frameworks/Python.framework/Versions/3.12/bin/python3.12": "/Library/Frameworks/Python.framework/Versions/3.12/bin /x",
		"/python3": "/x",
	} {
		if got := strings.Join(seatbeltFolders(python, "/x"), " "); got != want {
			t.Errorf("%s brings %s, want %s", python, got, want)
		}
	}
	if got := seatbeltFolders("/usr/bin/python3", "/usr"); slices.Contains(got, "/usr") {
		t.Errorf("it brings %v", got)
	}
	if got := seatbeltArgv("/p.sb", []string{"/py", "-c", "x"}); !slices.Equal(got, []string{"/usr/bin/sandbox-exec", "-f", "/p.sb", "/py", "-c", "x"}) {
		t.Errorf("%q", got)
	}
}
