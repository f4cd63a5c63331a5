package spare

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
)

// MaxNameLength is how long the name of an App or an engine may be, in bytes.
const MaxNameLength = 64

// A ReleaseVersion is a parsed App version: "0.1", "0.1rev3" or "0.2.rev33". The last
// two spell the same thing, so versions are ordered and compared by their numbers.
type ReleaseVersion struct {
	Major, Minor int
	Rev          int // 0 when the text names none
}

// ParseVersion reads a version as a manifest writes it.
func ParseVersion(s string) (ReleaseVersion, error) {
	v, parts, err := parseVersion(s)
	if err == nil && parts < 2 {
		err = fmt.Errorf("the minor number is missing")
	}
	if err != nil {
		return ReleaseVersion{}, fmt.Errorf("version %.80q: %w; write it as 0.1, 0.1rev3 or 0.2.rev33", s, err)
	}
	return v, nil
}

// Compare orders versions: negative when v is lower than o, 0 when they are equal.
func (v ReleaseVersion) Compare(o ReleaseVersion) int {
	return cmp.Or(cmp.Compare(v.Major, o.Major), cmp.Compare(v.Minor, o.Minor), cmp.Compare(v.Rev, o.Rev))
}

func (v ReleaseVersion) String() string {
	s := strconv.Itoa(v.Major) + "." + strconv.Itoa(v.Minor)
	if v.Rev > 0 {
		s += "rev" + strconv.Itoa(v.Rev)
	}
	return s
}

// CompareVersions orders two version texts. One that cannot be read is lower than all
// that can; two such are ordered as text.
func CompareVersions(a, b string) int {
	va, errA := ParseVersion(a)
	vb, errB := ParseVersion(b)
	switch {
	case errA != nil && errB != nil:
		return cmp.Compare(a, b)
	case errA != nil:
		return -1
	case errB != nil:
		return 1
	}
	return va.Compare(vb)
}

// A Tag names an App or an engine: "name", "name@1", "name@1.2" or "name@1.2rev3". What
// it leaves out means the highest there is. "name@v0.2" is not a tag: such names belong
// to templates, whose ids are opaque.
type Tag struct {
	Name    string
	Text    string // the version as written, "" when there is none
	Version ReleaseVersion
	Parts   int // how many numbers of the version are given: 0 to 3
}

// ParseTag reads a tag.
func ParseTag(s string) (Tag, error) {
	name, version, found := strings.Cut(s, "@")
	if err := CheckName(name); err != nil {
		return Tag{}, fmt.Errorf("tag %.80q: %w", s, err)
	}
	if !found {
		return Tag{Name: name}, nil
	}
	v, parts, err := parseVersion(version)
	if err != nil {
		return Tag{}, fmt.Errorf("tag %.80q: %w; write it as name, name@1, name@1.2 or name@1.2rev3", s, err)
	}
	return Tag{Name: name, Text: version, Version: v, Parts: parts}, nil
}

// Matches reports whether v is one of the versions that t may mean.
func (t Tag) Matches(v ReleaseVersion) bool {
	return (t.Parts < 1 || v.Major == t.Version.Major) &&
		(t.Parts < 2 || v.Minor == t.Version.Minor) &&
		(t.Parts < 3 || v.Rev == t.Version.Rev)
}

func (t Tag) String() string {
	if t.Text == "" {
		return t.Name
	}
	return t.Name + "@" + t.Text
}

// CheckName reports why name cannot name an App or an engine.
func CheckName(name string) error {
	if name == "" {
		return fmt.Errorf("the name is empty")
	}
	if len(name) > MaxNameLength {
		return fmt.Errorf("the name has %d characters, at most %d are allowed", len(name), MaxNameLength)
	}
	for _, c := range []byte(name) {
		if !nameByte(c) {
			return fmt.Errorf("the name may hold letters, digits, %q and %q only", '_', '-')
		}
	}
	return nil
}

func nameByte(c byte) bool {
	return c == '_' || c == '-' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
}

// parseVersion reads major[.minor[[.]revN]] and says how many numbers there were.
func parseVersion(s string) (v ReleaseVersion, parts int, err error) {
	if s == "" {
		return v, 0, fmt.Errorf("the version is empty")
	}
	head, rev, hasRev := strings.Cut(s, "rev")
	if hasRev {
		head = strings.TrimSuffix(head, ".")
	}
	major, minor, hasMinor := strings.Cut(head, ".")
	if v.Major, err = versionNumber(major); err != nil {
		return v, 0, err
	}
	if !hasMinor {
		if hasRev {
			return v, 0, fmt.Errorf("a revision needs a minor number before it")
		}
		return v, 1, nil
	}
	if v.Minor, err = versionNumber(minor); err != nil {
		return v, 0, err
	}
	if !hasRev {
		return v, 2, nil
	}
	if v.Rev, err = versionNumber(rev); err != nil {
		return v, 0, err
	}
	if v.Rev == 0 {
		return v, 0, fmt.Errorf("revisions count from 1")
	}
	return v, 3, nil
}

// versionNumber reads one number: plain digits, no leading zero, so that each number has
// one spelling.
func versionNumber(s string) (int, error) {
	if s == "" || len(s) > 9 || len(s) > 1 && s[0] == '0' {
		return 0, fmt.Errorf("%.20q is no version number", s)
	}
	for _, c := range []byte(s) {
		if c < '0' || c > '9' {
			return 0, fmt.Errorf("%.20q is no version number", s)
		}
	}
	return strconv.Atoi(s)
}
