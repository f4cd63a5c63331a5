package bundle

import (
	"fmt"
	"path"
	"strings"
	"unicode/utf8"
)

const maxComponent = 255 // bytes, what common file systems allow

// names checks the names of one archive or folder, and that no two of them would be the
// same file somewhere.
type names struct {
	lim   Limits
	files int
	seen  map[string]string // folded path → path; folders end in "/"
}

func newNames(lim Limits) *names { return &names{lim: lim, seen: map[string]string{}} }

// add takes the next entry's name and returns it clean.
func (n *names) add(name string, isDir bool) (string, error) {
	if isDir {
		name = strings.TrimSuffix(name, "/")
	}
	name = strings.TrimPrefix(name, "./")
	if isDir && (name == "." || name == "") {
		return ".", nil
	}
	if err := n.check(name); err != nil {
		return "", err
	}
	if !isDir {
		n.files++
	}
	if n.files > n.lim.Files {
		return "", &Refused{Reason: fmt.Sprintf("it has more than %d files", n.lim.Files)}
	}
	return name, n.unique(name, isDir)
}

// unique refuses a name that is taken, by case alone too, as file or as folder.
func (n *names) unique(name string, isDir bool) error {
	for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
		if err := n.claim(dir, true); err != nil {
			return err
		}
	}
	if !isDir {
		if _, again := n.seen[fold(name)]; again {
			return &Refused{Name: name, Reason: "stands there twice, or differs from another name only by case"}
		}
	}
	return n.claim(name, isDir)
}

func (n *names) claim(name string, isDir bool) error {
	as := name
	if isDir {
		as += "/"
	}
	key := fold(name)
	if other, taken := n.seen[key]; taken && other != as {
		return &Refused{Name: name, Reason: "and " + strings.TrimSuffix(other, "/") + " would be the same file on some systems"}
	}
	n.seen[key] = as
	if folders := len(n.seen) - n.files; folders > n.lim.Files+extraFolders {
		return &Refused{Reason: fmt.Sprintf("it has more than %d folders", n.lim.Files+extraFolders)}
	}
	return nil
}

// fold maps names that some file system takes for the same onto one.
func fold(s string) string { return strings.ToLower(strings.ToUpper(s)) }

func (n *names) check(name string) error {
	refuse := func(why string) error { return &Refused{Name: name, Reason: why} }
	switch {
	case name == "":
		return refuse("has an empty name")
	case len(name) > n.lim.Name:
		return refuse("has too long a name")
	case !utf8.ValidString(name):
		return refuse("has a name that is no UTF-8")
	case strings.HasPrefix(name, "/"):
		return refuse("has an absolute name")
	case strings.Count(name, "/") > n.lim.Depth:
		return refuse("lies too deep in folders")
	}
	for part := range strings.SplitSeq(name, "/") {
		if why := badComponent(part); why != "" {
			return refuse(why)
		}
	}
	return nil
}

func badComponent(part string) string {
	switch {
	case part == "..":
		return "climbs out of its folder"
	case part == "" || part == ".":
		return "has an empty part in its name"
	case len(part) > maxComponent:
		return "has too long a name"
	case strings.ContainsFunc(part, func(r rune) bool { return r < ' ' || r == 0x7f }):
		return "has a control character in its name"
	case strings.ContainsAny(part, `\:*?"<>|`):
		return `has one of \ : * ? " < > | in its name, which not every system can store`
	case strings.HasSuffix(part, ".") || strings.HasSuffix(part, " "):
		return "has a name that ends in a dot or a space, which not every system can store"
	case reserved(part):
		return "has a name that means a device on Windows"
	}
	return ""
}

// reserved reports whether Windows takes a name, whatever its ending, for a device.
func reserved(part string) bool {
	stem, _, _ := strings.Cut(strings.ToUpper(part), ".")
	stem = strings.TrimRight(stem, " ")
	switch stem {
	case "CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$", "CLOCK$":
		return true
	}
	runes := []rune(stem)
	return len(runes) == 4 && (strings.HasPrefix(stem, "COM") || strings.HasPrefix(stem, "LPT")) &&
		strings.ContainsRune("0123456789¹²³", runes[3])
}
