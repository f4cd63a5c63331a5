package wasm

import (
	"bytes"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// To load CPython's code, a new process touches 16,000 pages of memory for the first time.
// On virtual machines each of them may cost 35 µs, and all together longer than the rest of
// a run's start. So the helper asks for huge pages, which are 512 times as large.
const (
	hugePage  = 2 << 20
	worthIt   = 4 << 20  // of code; below, there is nothing to gain
	loadRoom  = 64 << 20 // what Go's memory grows by while a module is loaded
	codePause = 200 * time.Microsecond
)

// quicken asks for huge pages until end is called: for Go's memory, and for so many bytes
// of code, which wazero is about to map. Where the kernel has none, all goes on as ever.
func quicken(code int64) (end func()) {
	if code < worthIt {
		return func() {}
	}
	adviseHeap()
	runtime.GC()
	percent := debug.SetGCPercent(-1) // nearly all of what comes now stays
	stop := make(chan struct{})
	if file, err := os.Open("/proc/self/maps"); err == nil {
		maps := &mappings{file: file}
		go adviseCode(uintptr(code), maps, maps.anonymous(), stop)
	}
	return func() {
		close(stop)
		debug.SetGCPercent(percent)
	}
}

// adviseHeap takes memory, untouched, and frees it again: the place stays Go's, with the
// wish for huge pages, and is what comes next.
func adviseHeap() {
	room := make([]byte, loadRoom)
	advise(uintptr(unsafe.Pointer(&room[0])), loadRoom)
	runtime.KeepAlive(&room)
}

// advise asks for huge pages in a range of memory. That is a wish: errors change nothing.
func advise(start, size uintptr) {
	from, to := (start+hugePage-1)&^(hugePage-1), (start+size)&^(hugePage-1)
	if from < to {
		_, _, _ = unix.Syscall(unix.SYS_MADVISE, from, to-from, unix.MADV_HUGEPAGE)
	}
}

// adviseCode waits for a mapping that holds the code, and has what is not filled of it in
// huge pages. The mapping is wazero's, which tells nobody; the kernel may make it one with
// what lies beside it.
func adviseCode(code uintptr, maps *mappings, before map[uintptr]uintptr, stop <-chan struct{}) {
	defer func() { _ = maps.file.Close() }()
	for {
		for end, size := range maps.anonymous() {
			if size-min(size, before[end]) >= code-worthIt {
				advise(end-size, size)
				return
			}
		}
		select {
		case <-stop:
			return
		case <-time.After(codePause):
		}
	}
}

// mappings reads /proc/self/maps.
type mappings struct {
	file *os.File
	text [64 << 10]byte
}

// anonymous are the sizes of what is mapped of no file, by where it ends: memory is given
// out downwards.
func (m *mappings) anonymous() map[uintptr]uintptr {
	n, _ := m.file.ReadAt(m.text[:], 0)
	all := map[uintptr]uintptr{}
	for line := range bytes.Lines(m.text[:n]) {
		if start, size, ok := anonymous(line); ok {
			all[start+size] = size
		}
	}
	return all
}

// anonymous reads a line of /proc/self/maps: a writable mapping of no file.
func anonymous(line []byte) (start, size uintptr, ok bool) {
	addresses, rest, _ := bytes.Cut(line, []byte(" "))
	from, to, _ := bytes.Cut(addresses, []byte("-"))
	if f := bytes.Fields(rest); len(f) != 4 || string(f[0]) != "rw-p" {
		return 0, 0, false
	}
	a, err := strconv.ParseUint(string(from), 16, 64)
	b, err2 := strconv.ParseUint(string(to), 16, 64)
	return uintptr(a), uintptr(b - a), err == nil && err2 == nil && b > a
}
