package sandbox

import (
	"os"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

// With its program in memory, and on a machine that executes nothing from there, the first
// process is called the same and does the same.
func TestProgram_IsTheSameFromMemoryAndFromTheFile(t *testing.T) {
	if firstProgram != nil && programFD() < 0 {
		t.Error("the program does not get into memory")
	}
	t.Cleanup(func() { refused.Store(false) })
	for _, fromFile := range []bool{false, true} {
		refused.Store(fromFile)
		said := python(t, `import os; print(open("/proc/1/comm").read().strip(), os.getpid() < 99, os.getuid())`, nil)
		if said.out != "spare-sandbox True 1000\n" {
			t.Errorf("from the file: %v: %q", fromFile, said.out)
		}
	}
}

func TestProgram_InMemoryCannotBeChanged(t *testing.T) {
	fd := programFD()
	if fd < 0 {
		return // it has none
	}
	seals, err := unix.FcntlInt(uintptr(fd), unix.F_GET_SEALS, 0)
	if want := unix.F_SEAL_WRITE | unix.F_SEAL_GROW | unix.F_SEAL_SHRINK | unix.F_SEAL_SEAL; err != nil || seals&want != want {
		t.Errorf("seals %x, %v", seals, err)
	}
	f, err := os.OpenFile("/proc/self/fd/"+strconv.Itoa(fd), os.O_RDWR, 0)
	if err != nil {
		return
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte("x"), 0); err == nil {
		t.Error("it can be written to")
	}
}
