//go:build race

package e2e

// raceFlag has the programs built as the tests are.
var raceFlag = []string{"-race"}
