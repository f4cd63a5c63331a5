package sandbox

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"runtime"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Init must be the first line of main. In a sandbox's first process it builds the walls,
// runs the program, and never returns; everywhere else it does nothing.
func Init() {
	if len(os.Args) == 1 && os.Args[0] == argv0 && os.Getpid() == 1 {
		runtime.LockOSThread() // namespaces, capabilities and limits belong to threads
		first()
	}
}

// The first process need not wait for the packages that are initialised after this one:
// in a large program they cost more than the walls do. A program that does not import
// this package early still has its call of Init.
func init() { Init() }

// first is the life of the first process. It stays as the sandbox's init: it collects
// every orphan, watches memory and processor time, and ends all when the program ends,
// when the parent says so, or when the parent is gone.
func first() {
	send := func(r report) {
		_, _ = unix.Write(reportFD, encode(&r))
		os.Exit(0)
	}
	var o orders
	if err := decode(control{}, &o); err != nil {
		send(report{Failed: fmt.Sprintf("read the orders: %v", err)})
	}
	if err := build(o); err != nil {
		send(report{Failed: err.Error()})
	}
	program, err := lookup(o.Argv[0], o.Env)
	if err != nil {
		send(report{NoStart: o.Argv[0], Errno: int(errnoOf(err))})
	}
	w := newWatch(o)
	pid, failed, err := launch(program, o)
	if err != nil {
		if failed != stepExec {
			send(report{Failed: fmt.Sprintf("%s: %v", failed, err)})
		}
		send(report{NoStart: program, Errno: int(errnoOf(err))})
	}
	go w.obey(control{})
	go w.guard()
	send(w.reap(pid))
}

// control is the pipe that orders come in by. It is read without the runtime's poller,
// which would cost more to start than it saves for one pipe.
type control struct{}

func (control) Read(b []byte) (int, error) {
	n, err := unix.Read(controlFD, b)
	for err == unix.EINTR {
		n, err = unix.Read(controlFD, b)
	}
	if err != nil {
		return 0, err
	}
	if n == 0 {
		return 0, io.EOF
	}
	return n, nil
}

// build puts up all walls that hold for the first process and, by inheritance, for the
// program. What the program alone gets is launch's.
func build(o orders) error {
	deafen()
	// Under memory pressure the machine must lose this run before anything of its own.
	_ = writeFile("/proc/self/oom_score_adj", "1000")
	if err := unix.CloseRange(3, ^uint(0), unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return fmt.Errorf("close inherited files: %w", err)
	}
	if err := unix.Sethostname([]byte(hostname)); err != nil {
		return fmt.Errorf("set the host name: %w", err)
	}
	if err := buildRoot(o.Mounts, o.Tmp); err != nil {
		return err
	}
	// The file behind /proc/1/exe is the host's own program: a process that is not
	// dumpable shows neither it, nor its descriptors, nor its memory to anyone inside.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("hide the first process: %w", err)
	}
	if len(o.CPUs) > 0 {
		var set unix.CPUSet
		for _, cpu := range o.CPUs {
			set.Set(cpu)
		}
		if err := unix.SchedSetaffinity(0, &set); err != nil {
			return fmt.Errorf("keep to %d processors: %w", len(o.CPUs), err)
		}
	}
	if err := dropRights(); err != nil {
		return err
	}
	if err := os.Chdir(o.Dir); err != nil {
		return fmt.Errorf("working folder inside: %w", err)
	}
	return nil
}

// deafen gives every signal its default action, which for the first process of a pid
// namespace means that no signal from inside has any effect. The Go runtime's own
// handlers would end it on most. Signals 32 and 33 stay: runtimes use them among threads.
func deafen() {
	var standard [32]byte // a struct sigaction
	for s := uintptr(1); s <= 64; s++ {
		if s != 32 && s != 33 {
			_, _, _ = syscall.RawSyscall6(unix.SYS_RT_SIGACTION, s, uintptr(unsafe.Pointer(&standard)), 0, 8, 0, 0)
		}
	}
}

// securebits of linux/securebits.h: user id 0 means nothing (1), changing ids gives no
// capabilities (4), nor are they kept (lock 0x20), none become ambient (0x40), and all
// of that is locked (2, 8, 0x80).
const securebits = 1 | 2 | 4 | 8 | 0x20 | 0x40 | 0x80

// dropRights gives up every capability, now and for good, on this thread.
func dropRights() error {
	for c := range uintptr(64) {
		err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0)
		if errors.Is(err, unix.EINVAL) {
			break // past this kernel's last capability
		}
		if err != nil {
			return fmt.Errorf("drop capability %d: %w", c, err)
		}
	}
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return fmt.Errorf("clear the ambient capabilities: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_SECUREBITS, securebits, 0, 0, 0); err != nil {
		return fmt.Errorf("lock the secure bits: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("set no_new_privs: %w", err)
	}
	if err := unix.Capset(&noCaps.header, &noCaps.data[0]); err != nil {
		return fmt.Errorf("drop the capabilities: %w", err)
	}
	return nil
}

var noCaps = struct {
	header unix.CapUserHeader
	data   [2]unix.CapUserData
}{header: unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}}

// lookup finds a program as a shell would, inside the new root.
func lookup(name string, env []string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil
	}
	for _, v := range env {
		dirs, ok := strings.CutPrefix(v, "PATH=")
		if !ok {
			continue
		}
		for dir := range strings.SplitSeq(dirs, ":") {
			file := path.Join("/", dir, name)
			if info, err := os.Stat(file); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
				return file, nil
			}
		}
		break
	}
	return "", unix.ENOENT
}

func errnoOf(err error) syscall.Errno {
	var e syscall.Errno
	if errors.As(err, &e) {
		return e
	}
	return unix.EINVAL
}
