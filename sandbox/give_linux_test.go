package sandbox

import "testing"

func TestCovers_ReadsAnIDMap(t *testing.T) {
	for text, want := range map[string]bool{
		"         0          0 4294967295\n": true,
		"0 1000 1\n":                         false,
		"0 100000 65536\n":                   true,
		"0 0 1\n60999 60999 1\n":             true,
		"":                                   false,
	} {
		if covers(text, ownID) != want {
			t.Errorf("%q", text)
		}
	}
}
