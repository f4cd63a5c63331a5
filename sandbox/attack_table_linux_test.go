package sandbox_test

import (
	"os"
	"testing"

	"github.com/spare-compute/spare/sandbox/attack"
)

const tablePage = "../docs/sandbox.md"

// judgeTable compares the page with what the attacks gave, in the columns that ran, or
// writes these.
func judgeTable(t *testing.T, all *report) {
	t.Helper()
	if *some != "" {
		return
	}
	page, err := os.ReadFile(tablePage)
	if err != nil && !(*update && os.IsNotExist(err)) {
		t.Fatal(err)
	}
	table := attack.ReadTable(string(page))
	for _, c := range attack.Columns() {
		if got, ran := all.Columns[c.Name]; ran && (c.Ours || *update) {
			table.Set(c, got, *update)
		}
	}
	want := table.Write(string(page))
	switch {
	case want == string(page):
	case *update:
		if err := os.WriteFile(tablePage, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	default:
		t.Errorf("%s is not what the attacks gave: go test ./sandbox -run TestAttacks -update writes it", tablePage)
	}
}
