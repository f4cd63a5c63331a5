package wasm

import (
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

func TestAnonymous_TakesWritableMemoryOfNoFile(t *testing.T) {
	for line, want := range map[string]uintptr{
		"7fc4c8df6000-7fc4caa00000 rw-p 00000000 00:00 0 \n":                     0x7fc4caa00000 - 0x7fc4c8df6000,
		"7fc4c8df6000-7fc4caa00000 r--p 00000000 00:00 0 \n":                     0,
		"7fc4c8df6000-7fc4caa00000 rw-p 00000000 fe:00 12      /usr/lib/x.so\n":  0,
		"7ffc8df60000-7ffc8df81000 rw-p 00000000 00:00 0              [stack]\n": 0,
		"7fc4caa00000-7fc4c8df6000 rw-p 00000000 00:00 0 \n":                     0,
		"x-y rw-p 00000000 00:00 0 \n":                                           0,
		"\n":                                                                     0,
	} {
		if _, size, ok := anonymous([]byte(line)); ok != (want > 0) || ok && size != want {
			t.Errorf("%q: %x, %v", line, size, ok)
		}
	}
}

// What wazero does: it maps memory for the code and then fills it.
func TestQuicken_AsksForHugePagesWhereTheCodeWillBe(t *testing.T) {
	const size = 27<<20 + 4096
	end := quicken(size)
	defer end()
	code, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Munmap(code) }()
	middle := uint64(uintptr(unsafe.Pointer(&code[size/2])))
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		flags := flagsAt(t, middle)
		if strings.Contains(flags, " hg") {
			return
		}
		if _, err := os.Stat("/sys/kernel/mm/transparent_hugepage"); err != nil {
			t.Log("this kernel has no huge pages to ask for")
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("no huge pages were asked for: %s", flags)
		}
	}
}

// flagsAt reads the kernel's flags of the mapping at an address.
func flagsAt(t *testing.T, at uint64) string {
	t.Helper()
	text, err := os.ReadFile("/proc/self/smaps")
	if err != nil {
		t.Fatal(err)
	}
	inside := false
	for line := range strings.Lines(string(text)) {
		if from, rest, ok := strings.Cut(line, "-"); ok {
			to, _, _ := strings.Cut(rest, " ")
			a, err := strconv.ParseUint(from, 16, 64)
			b, err2 := strconv.ParseUint(to, 16, 64)
			if err == nil && err2 == nil {
				inside = a <= at && at < b
			}
		}
		if flags, ok := strings.CutPrefix(line, "VmFlags:"); ok && inside {
			return flags
		}
	}
	return ""
}
