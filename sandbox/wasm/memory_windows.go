package wasm

import (
	"os"
	"unsafe"

	"golang.org/x/sys/windows"
)

func reserve(size uint64) ([]byte, error) {
	size = max(size, 1)
	p, err := windows.VirtualAlloc(0, uintptr(size), windows.MEM_RESERVE, windows.PAGE_NOACCESS)
	if err != nil {
		return nil, err
	}
	// p is no Go memory, so its number does not go stale; vet cannot know.
	return unsafe.Slice(*(**byte)(unsafe.Pointer(&p)), size), nil
}

// commit takes up the bytes from one length to another; both are whole wasm pages.
func commit(space []byte, from, to uint64) error {
	_, err := windows.VirtualAlloc(uintptr(unsafe.Pointer(&space[from])), uintptr(to-from), windows.MEM_COMMIT, windows.PAGE_READWRITE)
	return err
}

// mapped is a file's content.
func mapped(name string) ([]byte, error) { return os.ReadFile(name) }
