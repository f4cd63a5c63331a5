package datasource

import (
	"mime"
	"net/url"
	"path"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxName is how long a file name may be, in bytes; all systems take at least this.
const maxName = 200

// reserved are names that Windows keeps for devices, whatever their ending.
var reserved = regexp.MustCompile(`(?i)^(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³]|conin\$|conout\$)(\.|$)`)

// fileName chooses the input's name: what the submitter says, what the server says, or
// the end of the address as it was given or as it was followed.
func fileName(given, disposition string, asked, answered *url.URL) string {
	said := ""
	if _, params, err := mime.ParseMediaType(disposition); err == nil {
		said = params["filename"]
	}
	for _, name := range []string{given, said, last(asked), last(answered)} {
		if name = clean(name); name != "" {
			return name
		}
	}
	return "input"
}

func last(u *url.URL) string {
	if u == nil || strings.HasSuffix(u.Path, "/") {
		return ""
	}
	return path.Base("/" + u.Path)
}

// CleanName makes a file name that every system takes of any text.
func CleanName(name string) string {
	if name = clean(name); name != "" {
		return name
	}
	return "input"
}

// clean keeps the last part of a path and makes it safe. It is "" if nothing is left.
func clean(name string) string {
	name = name[strings.LastIndexAny(name, `/\`)+1:]
	name = strings.Map(func(r rune) rune {
		switch {
		case r == utf8.RuneError || strings.ContainsRune(`<>:"|?*`, r):
			return '_'
		case unicode.IsControl(r) || unicode.Is(unicode.Cf, r):
			return -1 // also the marks that make a name read backwards
		case unicode.IsSpace(r):
			return ' '
		}
		return r
	}, strings.ToValidUTF8(name, "_"))
	name = strings.Trim(name, ". ")
	if len(name) > maxName {
		ext := path.Ext(name)
		if len(ext) > 16 {
			ext = ""
		}
		stem := name[:maxName-len(ext)]
		for !utf8.ValidString(stem) {
			stem = stem[:len(stem)-1]
		}
		name = strings.TrimRight(stem, ". ") + ext
	}
	if reserved.MatchString(name) {
		name = "_" + name
	}
	return name
}
