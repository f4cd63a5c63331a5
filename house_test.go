package spare_test

import (
	"bytes"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/spare-compute/spare"

// arrows says which rooms each room's programs may import, besides itself and the
// vocabulary. A room that is not here may not exist.
var arrows = map[string][]string{
	"":           {},
	"protocol":   {},
	"egress":     {},
	"disk":       {},
	"publisher":  {"disk"},
	"bundle":     {},
	"image":      {"egress"},
	"sandbox":    {"egress"},
	"apps":       {},
	"client":     {},
	"installers": {},
	"stage":      {"sandbox", "bundle", "image"},
	"hub":        {"disk", "protocol", "sandbox", "bundle", "egress", "image", "publisher", "stage", "apps"},
	"node":       {"disk", "protocol", "sandbox", "bundle", "egress", "image", "publisher", "stage"},
	"cmd":        {"protocol", "sandbox", "bundle", "egress", "image", "publisher", "stage", "apps", "client", "hub", "node"},
	"demo":       {"client"},
	"e2e":        {"protocol", "sandbox", "bundle", "egress", "image", "publisher", "stage", "apps", "client", "hub", "node"},
}

// testArrows are what tests may import beyond that: an App's tests run it, the API's
// tests call it as a program would, and the client's tests need a hub to call. Images are
// run, attacks are packed into bundles and images, and the service units must leave the
// sandbox what it needs.
var testArrows = map[string][]string{
	"apps":       {"sandbox", "bundle", "stage", "hub"},
	"client":     {"hub"},
	"hub":        {"client"},
	"image":      {"sandbox"},
	"installers": {"sandbox"},
	"sandbox":    {"bundle", "image"},
}

// source is one of the tree's own Go files.
type source struct {
	path    string // slash-separated, from the root
	pkg     string // its folder
	doc     string // the comment on its package clause
	name    string // of its package
	imports []string
}

func (s source) test() bool { return strings.HasSuffix(s.path, "_test.go") }

// room is the top folder of a slash-separated path, "" for the root.
func room(folder string) string {
	first, _, _ := strings.Cut(folder, "/")
	if first == "." {
		return ""
	}
	return first
}

// ours walks the files that belong to the project: not what a build leaves, nothing hidden but .ci.
func ours(t *testing.T, visit func(file string)) {
	t.Helper()
	made := []string{"bin", "dist", "demo-out", "bench-out"}
	err := filepath.WalkDir(".", func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		file = filepath.ToSlash(file)
		if d.IsDir() {
			hidden := strings.HasPrefix(d.Name(), ".") && file != "." && file != ".ci"
			if hidden || slices.Contains(made, file) || d.Name() == "__pycache__" {
				return fs.SkipDir
			}
			return nil
		}
		visit(file)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// sources parses the root module's Go files for every system, whatever their build tags say.
func sources(t *testing.T) []source {
	t.Helper()
	var all []source
	ours(t, func(file string) {
		if path.Ext(file) != ".go" || room(file) == "bench" || strings.Contains(file, "testdata/") {
			return
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly|parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		s := source{path: file, pkg: path.Dir(file), name: parsed.Name.Name, doc: parsed.Doc.Text()}
		for _, i := range parsed.Imports {
			p, err := strconv.Unquote(i.Path.Value)
			if err != nil {
				t.Fatalf("%s: %v", file, err)
			}
			s.imports = append(s.imports, p)
		}
		all = append(all, s)
	})
	if len(all) < 5 {
		t.Fatalf("found %d Go files; is the test run in the module's root?", len(all))
	}
	return all
}

func TestHouse_ImportsFollowTheArrows(t *testing.T) {
	for _, s := range sources(t) {
		from := room(s.pkg)
		allowed, known := arrows[from]
		if !known {
			t.Errorf("%s: folder %q is no room of the house; give it its arrows in house_test.go", s.path, from)
			continue
		}
		if s.test() {
			allowed = slices.Concat(allowed, testArrows[from])
		}
		for _, p := range s.imports {
			if p != module && !strings.HasPrefix(p, module+"/") {
				continue
			}
			to := room(strings.TrimPrefix(strings.TrimPrefix(p, module), "/"))
			if to != "" && to != from && !slices.Contains(allowed, to) {
				t.Errorf("%s imports %s: no arrow leads from %q to %q", s.path, p, from, to)
			}
		}
	}
}

func TestHouse_HubAndNodeNeverMeet(t *testing.T) {
	for _, pair := range [][2]string{{"hub", "node"}, {"node", "hub"}} {
		if slices.Contains(arrows[pair[0]], pair[1]) || slices.Contains(testArrows[pair[0]], pair[1]) {
			t.Errorf("an arrow leads from %s to %s", pair[0], pair[1])
		}
	}
}

func TestHouse_VocabularyImportsOnlyTheStandardLibrary(t *testing.T) {
	for _, s := range sources(t) {
		if s.pkg != "." || s.test() {
			continue
		}
		for _, p := range s.imports {
			if first, _, _ := strings.Cut(p, "/"); strings.Contains(first, ".") {
				t.Errorf("%s imports %s: the vocabulary imports the standard library alone", s.path, p)
			}
		}
	}
}

func TestHouse_EveryPackageSaysWhatItIs(t *testing.T) {
	said := map[string]bool{}
	for _, s := range sources(t) {
		if s.test() {
			continue
		}
		want := "Package " + s.name + " "
		if s.name == "main" {
			want = "Command "
		}
		said[s.pkg] = said[s.pkg] || strings.HasPrefix(s.doc, want) || strings.Contains(s.path, ".pb.go")
	}
	for pkg, ok := range said {
		if !ok {
			t.Errorf("package in %q has no comment that begins with its name", pkg)
		}
	}
}

func TestHouse_EveryTopFolderIsExplained(t *testing.T) {
	packages := map[string]bool{}
	for _, s := range sources(t) {
		packages[s.pkg] = true
	}
	for _, folder := range folders(t) {
		if strings.Contains(folder, "/") || packages[folder] {
			continue // a package's comment explains it, see the test above
		}
		if _, err := os.Stat(filepath.Join(folder, "README.md")); err == nil {
			continue
		}
		held := slices.Collect(func(yield func(string) bool) {
			for p := range packages {
				if strings.HasPrefix(p, folder+"/") && !yield(p) {
					return
				}
			}
		})
		if len(held) == 0 {
			t.Errorf("folder %s has neither a package nor a README.md", folder)
		}
	}
}

// folders lists what ARCHITECTURE.md must draw: every folder of the first two levels, and below
// these the ones that hold Go packages.
func folders(t *testing.T) []string {
	t.Helper()
	seen := map[string]bool{}
	ours(t, func(file string) {
		folder := path.Dir(file)
		if folder == "." || strings.HasPrefix(folder, ".") || slices.Contains(strings.Split(folder, "/"), "testdata") {
			return
		}
		parts := strings.Split(folder, "/")
		for i := range min(len(parts), 2) {
			seen[path.Join(parts[:i+1]...)] = true
		}
		if len(parts) > 2 && path.Ext(file) == ".go" {
			seen[folder] = true
		}
	})
	list := []string{}
	for folder := range seen {
		list = append(list, folder)
	}
	slices.Sort(list)
	return list
}

// drawn reads the folders of the picture in ARCHITECTURE.md: the fenced block that begins with
// spare.go, a folder a line, two spaces for each level.
func drawn(t *testing.T) []string {
	t.Helper()
	page, err := os.ReadFile("ARCHITECTURE.md")
	if err != nil {
		t.Fatal(err)
	}
	_, block, found := strings.Cut(string(page), "```\nspare.go")
	if !found {
		t.Fatal("ARCHITECTURE.md has no fenced block that begins with spare.go")
	}
	block, _, _ = strings.Cut(block, "```")
	var list, above []string
	for line := range strings.Lines(block) {
		name, _, _ := strings.Cut(strings.TrimSpace(line), " ")
		if !strings.HasSuffix(name, "/") {
			continue
		}
		depth := (len(line) - len(strings.TrimLeft(line, " "))) / 2
		if depth > len(above) {
			t.Fatalf("ARCHITECTURE.md: %q is drawn under nothing", strings.TrimSpace(line))
		}
		above = append(above[:depth:depth], strings.TrimSuffix(name, "/"))
		list = append(list, path.Join(above...))
	}
	slices.Sort(list)
	return list
}

func TestHouse_PictureMatchesTheFolders(t *testing.T) {
	picture, real := drawn(t), folders(t)
	for _, f := range real {
		if !slices.Contains(picture, f) {
			t.Errorf("folder %s is missing from the picture in ARCHITECTURE.md", f)
		}
	}
	for _, f := range picture {
		if !slices.Contains(real, f) {
			t.Errorf("ARCHITECTURE.md draws %s, which does not exist", f)
		}
	}
}

func TestHouse_NoFileIsTooLong(t *testing.T) {
	ours(t, func(file string) {
		code := slices.Contains([]string{".go", ".py", ".sh", ".js", ".css", ".s"}, path.Ext(file))
		if !code || strings.HasSuffix(file, ".pb.go") {
			return
		}
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if lines := bytes.Count(text, []byte("\n")); lines > 600 {
			t.Errorf("%s has %d lines; does a second noun hide in it?", file, lines)
		}
	})
}

var skipped = regexp.MustCompile(`\bt\.Ski[p](f|Now)?\(`)

// unwanted are marks of unfinished work and of a single developer's machine. The brackets keep
// the patterns from finding themselves. Most begin with fixed letters, which are looked for
// many times faster.
var unwanted = []*regexp.Regexp{
	regexp.MustCompile(`TOD[O]\b`),
	regexp.MustCompile(`FIXM[E]\b`),
	regexp.MustCompile(`\bXX[X]\b`),
	regexp.MustCompile(`issue #?[0-9]+`),
	regexp.MustCompile(`Issue #?[0-9]+`),
	regexp.MustCompile(`ISSUE #?[0-9]+`),
	skipped,
	regexp.MustCompile(`panic\("(not impl|unimpl)`),
	regexp.MustCompile(`/wor[k]/(main|shared)\b`),
	regexp.MustCompile(`/tmp/pla[n]\b`),
	regexp.MustCompile(`/hom[e]/[a-z]+/(src|go)/`),
	regexp.MustCompile(`//nolin[t]`),
}

func TestHouse_NothingUnfinishedOrPrivate(t *testing.T) {
	kinds := []string{".go", ".md", ".py", ".sh", ".json", ".yaml", ".service", ".txtar", ".html", ".js", ".css", ".proto", ".sql", ".mod", ".s", ""}
	ours(t, func(file string) {
		if !slices.Contains(kinds, path.Ext(file)) || file == "LICENSE" {
			return
		}
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, pattern := range unwanted {
			if pattern == skipped && bytes.Contains(text, []byte("pgregory.net/rapid")) {
				continue // there it drops one draw, not the test
			}
			for _, at := range pattern.FindAllIndex(text, -1) {
				t.Errorf("%s:%d: %q has no place here", file, 1+bytes.Count(text[:at[0]], []byte("\n")), text[at[0]:at[1]])
			}
		}
	})
}
