package spare_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/spare-compute/spare"
)

func TestParseVersion_ReadsEverySpelling(t *testing.T) {
	for text, want := range map[string]spare.ReleaseVersion{
		"0.1":         {Major: 0, Minor: 1},
		"12.345":      {Major: 12, Minor: 345},
		"0.1rev3":     {Minor: 1, Rev: 3},
		"0.2.rev33":   {Minor: 2, Rev: 33},
		"999999999.0": {Major: 999999999},
	} {
		if got, err := spare.ParseVersion(text); err != nil || got != want {
			t.Errorf("ParseVersion(%q) = %+v, %v, want %+v", text, got, err, want)
		}
	}
}

func TestParseVersion_RefusesWhatIsNoVersion(t *testing.T) {
	for _, text := range []string{
		"", "1", "v0.2", "0.", ".1", "0.1.2", "0.1rev", "0.1rev0", "0.1rev3rev4", "1rev3", "01.2", "0.02",
		"-1.0", "0.1 ", "0.1Rev3", "1234567890.0", "0.1..rev2", "٣.١",
	} {
		if v, err := spare.ParseVersion(text); err == nil {
			t.Errorf("ParseVersion(%q) = %+v", text, v)
		} else if !strings.Contains(err.Error(), "0.1rev3") {
			t.Errorf("ParseVersion(%q): %q does not show how to write one", text, err)
		}
	}
}

func TestCompareVersions_OrdersByNumbersNotLetters(t *testing.T) {
	want := []string{"junk", "0.1", "0.1rev3", "0.1.rev12", "0.2", "0.10", "1.0", "10.0"}
	got := slices.Clone(want)
	slices.Reverse(got)
	slices.SortFunc(got, spare.CompareVersions)
	if !slices.Equal(got, want) {
		t.Errorf("sorted: %v, want %v", got, want)
	}
	if spare.CompareVersions("0.2rev33", "0.2.rev33") != 0 {
		t.Error("two spellings of a version differ")
	}
}

func TestParseTag_AMissingPartMeansAny(t *testing.T) {
	for _, test := range []struct {
		tag        string
		yes, never []string
	}{
		{"app", []string{"0.1", "1.2rev3", "9.9"}, nil},
		{"app@1", []string{"1.0", "1.2rev3"}, []string{"0.1", "2.0"}},
		{"app@1.2", []string{"1.2", "1.2rev3"}, []string{"1.20", "1.3", "0.2"}},
		{"app@1.2rev3", []string{"1.2rev3", "1.2.rev3"}, []string{"1.2", "1.2rev4"}},
	} {
		tag, err := spare.ParseTag(test.tag)
		if err != nil {
			t.Fatal(err)
		}
		if tag.Name != "app" || tag.String() != test.tag {
			t.Errorf("%q was read as %+v, %q", test.tag, tag, tag)
		}
		for want, versions := range map[bool][]string{true: test.yes, false: test.never} {
			for _, text := range versions {
				v, err := spare.ParseVersion(text)
				if err != nil {
					t.Fatal(err)
				}
				if tag.Matches(v) != want {
					t.Errorf("%s matches %s: %v, want %v", tag, text, !want, want)
				}
			}
		}
	}
}

func TestParseTag_RefusesWhatIsNoTag(t *testing.T) {
	for _, text := range []string{
		"", "@", "@1", "app@", "app@v0.2", "app@1@2", "a/b", "a b", "app@1.", "a.b@1", "größe", strings.Repeat("x", 65),
	} {
		if tag, err := spare.ParseTag(text); err == nil {
			t.Errorf("ParseTag(%q) = %+v", text, tag)
		}
	}
}

func FuzzParseTag(f *testing.F) {
	for _, seed := range []string{"app", "app@1", "app@1.2", "app@0.2.rev33", "video-transcoding@v0.2", "@", "a@0.1rev"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		tag, err := spare.ParseTag(s)
		if err != nil {
			return
		}
		if tag.String() != s {
			t.Fatalf("%q was read as %q", s, tag)
		}
		if !tag.Matches(tag.Version) {
			t.Fatalf("%q does not match its own version", s)
		}
		if tag.Parts >= 2 {
			v, err := spare.ParseVersion(tag.Version.String())
			if err != nil || v.Compare(tag.Version) != 0 {
				t.Fatalf("%q: version %v is read back as %v, %v", s, tag.Version, v, err)
			}
		}
	})
}
