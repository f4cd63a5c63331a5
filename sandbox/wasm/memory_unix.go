//go:build unix

package wasm

import (
	"os"

	"golang.org/x/sys/unix"
)

func reserve(size uint64) ([]byte, error) {
	space, err := unix.Mmap(-1, 0, int(max(size, 1)), unix.PROT_NONE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err == nil {
		largePages(space)
	}
	return space, err
}

// mapped is a file's content without reading it: what is looked at comes from the
// system's cache.
func mapped(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || info.Size() == 0 {
		return nil, err
	}
	return unix.Mmap(int(f.Fd()), 0, int(info.Size()), unix.PROT_READ, unix.MAP_PRIVATE)
}

// commit takes up the bytes from one length to another; both are whole wasm pages.
func commit(space []byte, from, to uint64) error {
	return unix.Mprotect(space[from:to], unix.PROT_READ|unix.PROT_WRITE)
}
