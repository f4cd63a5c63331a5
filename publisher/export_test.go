package publisher

import "testing"

// OnAStick lets key files lie where no file can be its owner's alone.
func OnAStick(t *testing.T) {
	t.Helper()
	before := keepsModes
	keepsModes = func(string) (bool, error) { return false, nil }
	t.Cleanup(func() { keepsModes = before })
}
