package sandbox

import (
	"errors"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/spare-compute/spare/sandbox/clone"
	"github.com/spare-compute/spare/sandbox/first"
)

const (
	argv0   = "spare-sandbox" // what the first process is called
	ownFile = "/proc/self/exe"

	memfdExec    = 0x10 // MFD_EXEC of linux/memfd.h, since Linux 6.3
	programAbove = 64   // its descriptor's number, out of the way of the first process's own
)

// refused says that this machine executes no program from memory.
var refused atomic.Bool

// birth executes the first process's program, or where there is none, or the machine does
// not let it, this very one.
func (r *run) birth(attr *syscall.SysProcAttr) error {
	files := make([]uintptr, len(r.theirs))
	for i, f := range r.theirs {
		files[i] = f.Fd()
	}
	start := func(program string) (int, error) {
		return clone.Start(program, []string{argv0}, &syscall.ProcAttr{
			Dir: "/", Env: []string{first.Env, "GOMAXPROCS=1", "GODEBUG=asyncpreemptoff=1"}, Files: files, Sys: attr,
		})
	}
	program := ownFile
	if fd := programFD(); fd >= len(files) && !refused.Load() {
		program = "/proc/self/fd/" + strconv.Itoa(fd)
	}
	pid, err := start(program)
	if err != nil && program != ownFile {
		if pid, err = start(ownFile); err == nil {
			refused.Store(true)
		}
	}
	if err != nil {
		return err
	}
	r.first, err = os.FindProcess(pid)
	return err
}

// programFD is the first process's program in memory that nobody can change, or -1.
var programFD = sync.OnceValue(func() int {
	if len(firstProgram) == 0 {
		return -1
	}
	fd, err := unix.MemfdCreate(argv0, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING|memfdExec)
	if errors.Is(err, unix.EINVAL) { // an older kernel, where every such file may be executed
		fd, err = unix.MemfdCreate(argv0, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	}
	if err != nil {
		return -1
	}
	f := os.NewFile(uintptr(fd), argv0)
	defer func() { _ = f.Close() }()
	if _, err := f.Write(firstProgram); err != nil {
		return -1
	}
	if _, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_WRITE|unix.F_SEAL_GROW|unix.F_SEAL_SHRINK|unix.F_SEAL_SEAL); err != nil {
		return -1
	}
	// Through a descriptor for reading: what is open for writing cannot be executed.
	read, err := unix.Open("/proc/self/fd/"+strconv.Itoa(fd), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1
	}
	defer func() { _ = unix.Close(read) }()
	high, err := unix.FcntlInt(uintptr(read), unix.F_DUPFD_CLOEXEC, programAbove)
	if err != nil {
		return -1
	}
	return high
})
