package spare_test

import (
	"os"
	"path"
	"regexp"
	"strings"
	"testing"
)

// What the pages on security promise is shown by tests that they name. A test that was
// renamed or removed would leave a promise with nothing behind it.
func TestDocs_PromisesNameTestsThatExist(t *testing.T) {
	declared := map[string]bool{}
	function := regexp.MustCompile(`(?m)^func (Test\w+)\(`)
	ours(t, func(file string) {
		if !strings.HasSuffix(file, "_test.go") {
			return
		}
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range function.FindAllSubmatch(text, -1) {
			declared[string(f[1])] = true
		}
	})
	named := regexp.MustCompile(`\bTest[A-Z]\w*_\w+`)
	file := regexp.MustCompile("`([a-z][a-z0-9/_]*/[a-z0-9_]+\\.(?:go|sh|service))`")
	for _, page := range []string{"SECURITY.md", "docs/sandbox.md", "docs/sandbox-other-systems.md", "docs/signing.md"} {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range named.FindAllString(string(text), -1) {
			if !declared[name] {
				t.Errorf("%s names the test %s, and there is none", page, name)
			}
		}
		for _, f := range file.FindAllSubmatch(text, -1) {
			if _, err := os.Stat(path.Clean(string(f[1]))); err != nil {
				t.Errorf("%s names a file: %v", page, err)
			}
		}
	}
}
