package first

import (
	"runtime"
	"syscall"
	"unsafe"
)

// Env marks the first process. It is one only if it is also number 1 of its namespace.
const Env = "SPARE_SANDBOX_FIRST=1"

// ID is the user and group that programs run as, as they see it.
const ID = 1000

// name is what the first process is called among the machine's processes.
var name = [16]byte([]byte("spare-sandbox\x00\x00\x00"))

// OwnThreads are the first process's own, which the kernel counts with the program's.
const OwnThreads = 16

// Files of the first process beyond stdin, stdout and stderr.
const (
	controlFD = 3 + iota // orders come in; its end means that the parent is gone
	reportFD
	MountFD // the first of the mounts made ready by the parent
)

// While packages are initialised, the runtime keeps this on the process's main thread.
// Asking for it would cost a thread more.
func init() {
	if mine() {
		live()
	}
	if probing() {
		try()
	}
}

// Run never returns in a sandbox's first process. Elsewhere it does nothing.
func Run() {
	if mine() {
		runtime.LockOSThread() // capabilities and limits belong to threads
		live()
	}
}

func mine() bool {
	if syscall.Getpid() != 1 {
		return false
	}
	mark, _ := syscall.Getenv(Env[:len(Env)-2])
	return mark == "1"
}

// live is the whole life: orders, walls, program, end.
func live() {
	var o Orders
	if err := Decode(control{}, &o); err != nil {
		send(Report{Failed: "read the orders: " + err.Error()})
	}
	rules, err := build(&o)
	if err != nil {
		send(Report{Failed: err.Error()})
	}
	if o.Probe {
		o.Argv, o.Env = []string{ownProgram}, join(o.Env, ProbeEnv)
	}
	program, errno := lookup(o.Argv[0], o.Env)
	if errno != 0 {
		send(Report{NoStart: o.Argv[0], Errno: int(errno)})
	}
	pid, failed, errno := launch(program, &o, rules)
	switch {
	case errno != 0 && failed == stepExec:
		send(Report{NoStart: program, Errno: int(errno)})
	case errno != 0:
		send(Report{Failed: failed.String() + ": " + errno.Error()})
	}
	_, _ = syscall.Close(1), syscall.Close(2) // they are the program's now: their end is its end
	w := watchOf(&o)
	go w.guard()
	send(w.reap(pid))
}

// send writes the report and ends the process, and with it all that is left inside.
func send(r Report) {
	_, _ = syscall.Write(reportFD, Encode(&r))
	syscall.Exit(0)
}

// build puts up all walls that hold for the first process and, by inheritance, for the
// program. What the program alone gets is launch's; of that, Landlock's rules are made
// here, while the paths are at hand.
func build(o *Orders) (rules int, err error) {
	deafen()
	_ = prctl(syscall.PR_SET_NAME, uintptr(unsafe.Pointer(&name)), 0) // for who looks at the machine's processes
	// Under memory pressure the machine must lose this run before anything of its own.
	_ = writeFile("/proc/self/oom_score_adj", "1000")
	if o.has(WallDescriptors) {
		if _, _, e := syscall.RawSyscall(sysCloseRange, 3, ^uintptr(0), closeRangeCloexec); e != 0 {
			return -1, fault("close inherited files", e)
		}
	}
	if err := prctl(syscall.PR_SET_PDEATHSIG, uintptr(syscall.SIGKILL), 0); err != nil {
		return -1, fault("tie to the parent's life", err)
	}
	if o.has(WallUTS) {
		if err := syscall.Sethostname([]byte(hostname)); err != nil {
			return -1, fault("set the host name", err)
		}
	}
	if o.Proxy > 0 {
		if err := offerListener(o); err != nil {
			return -1, err
		}
	}
	system := join(systemFolders, "etc")
	if o.has(WallMounts) {
		if system, err = buildRoot(o); err != nil {
			return -1, err
		}
	}
	// The file behind /proc/1/exe is the host's own program: a process that is not
	// dumpable shows neither it, nor its descriptors, nor its memory to anyone inside.
	if o.has(WallUndumpable) {
		if err := prctl(syscall.PR_SET_DUMPABLE, 0, 0); err != nil {
			return -1, fault("hide the first process", err)
		}
	}
	if err := keepTo(o.CPUs); err != nil {
		return -1, err
	}
	if rules, err = landlock(o, system); err != nil {
		return -1, err
	}
	if err := dropRights(o); err != nil {
		return -1, err
	}
	if err := syscall.Chdir(o.Dir); err != nil {
		return -1, fault("enter the working folder "+o.Dir, err)
	}
	return rules, seal(o.Filter)
}

// lookup finds a program as a shell would, inside the new root.
func lookup(name string, env []string) (string, syscall.Errno) {
	for i := range name {
		if name[i] == '/' {
			return name, 0
		}
	}
	const variable = "PATH="
	for _, v := range env {
		if len(v) < len(variable) || v[:len(variable)] != variable {
			continue
		}
		for dir := range parts(v[len(variable):], ':') {
			var st syscall.Stat_t
			file := dir + "/" + name
			if syscall.Stat(file, &st) == nil && st.Mode&syscall.S_IFMT == syscall.S_IFREG && st.Mode&0o111 != 0 {
				return file, 0
			}
		}
		break
	}
	return "", syscall.ENOENT
}

// parts yields what stands between separators.
func parts(s string, separator byte) func(func(string) bool) {
	return func(yield func(string) bool) {
		start := 0
		for i := 0; i <= len(s); i++ {
			if i == len(s) || s[i] == separator {
				if !yield(s[start:i]) {
					return
				}
				start = i + 1
			}
		}
	}
}
