//go:build !linux

package image

// flush does nothing here: only Linux runs unpacked images, and elsewhere a file that a
// power cut made shorter is found by its size.
func flush(string) error { return nil }
