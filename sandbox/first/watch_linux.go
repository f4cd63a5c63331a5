package first

import (
	"sync/atomic"
	"syscall"
	"unsafe"
)

// watch ends a run that uses too much, and obeys the parent. It reads the sandbox's own
// /proc, where there are no processes but the program's.
type watch struct {
	memory int64        // bytes
	cpu    int64        // nanoseconds
	why    atomic.Int64 // the first reason to end it
	peak   atomic.Int64
	asked  atomic.Bool // to end by itself
	over   atomic.Bool // the program has ended

	counted  bool  // a control group counts memory
	wait     int   // samples until the next look at what is held
	lastHeld int64 // bytes
	shared   int64 // bytes of shared memory mapped, in the sample being taken
	buffers  int64 // bytes that pipes and sockets may hold

	text [8 << 10]byte // for one file of /proc
	dir  [32 << 10]byte
}

func watchOf(o *Orders) *watch {
	w := &watch{counted: o.Counted}
	if o.has(WallPIDs) && o.has(WallMounts) { // else /proc would tell of the host
		if o.has(WallMemoryWatch) {
			w.memory = o.Memory
		}
		if o.has(WallCPUTime) {
			w.cpu = o.CPU
		}
	}
	return w
}

// freeTables is what a process's page tables may take before they count: more than those
// of a program that uses the memory it maps.
const freeTables = 4 << 20

// watchPause is how often memory and processor time are looked at.
const watchPause = nanosecondsInSecond / 10

// end kills every process in the sandbox but this one.
func (w *watch) end(k Kill) {
	w.why.CompareAndSwap(int64(KillNone), int64(k))
	_ = syscall.Kill(-1, syscall.SIGKILL)
}

// guard waits for orders and looks at what is used in between. The peak is wanted even
// without a limit. It has one thread, which the kernel keeps asleep.
func (w *watch) guard() {
	for {
		if w.ordered() {
			w.obey()
			continue
		}
		memory, cpu := w.sample()
		if memory > w.peak.Load() {
			w.peak.Store(memory)
		}
		if w.memory > 0 && memory > w.memory {
			w.end(KillMemory)
		}
		if w.cpu > 0 && cpu > w.cpu {
			w.end(KillTime)
		}
	}
}

// ordered waits for an order, but not longer than the pause.
func (w *watch) ordered() bool {
	poll := struct {
		fd             int32
		events, result int16
	}{fd: controlFD, events: pollIn}
	pause := syscall.Timespec{Nsec: watchPause}
	n, _, e := syscall.Syscall6(syscall.SYS_PPOLL, uintptr(unsafe.Pointer(&poll)), 1, uintptr(unsafe.Pointer(&pause)), 0, 0, 0)
	return e == 0 && n == 1
}

// obey takes one order. When the parent is gone, so is this process, and the kernel ends
// the rest with it.
func (w *watch) obey() {
	var order [1]byte
	if n, _ := (control{}).Read(order[:]); n != 1 {
		syscall.Exit(1)
	}
	if o := Order(order[0]); o >= OrderAsk {
		w.follow(o)
		return
	}
	w.end(Kill(order[0]))
}

// sample adds up the sandbox. Memory that processes share after a fork is counted for
// each of them at first; only if that passes the limit the exact, costlier figure is read.
func (w *watch) sample() (memory, cpu int64) {
	temporary := tmpfsUse("/tmp") + tmpfsUse("/dev/shm")
	memory, cpu = temporary, childrenTime()
	pids, held := w.processes(), w.held()
	w.shared = 0
	for _, pid := range pids {
		m, c := w.processUse(pid)
		memory += m
		cpu += c
	}
	memory += max(0, held-w.shared) + w.buffers
	if w.memory == 0 || memory <= w.memory {
		return memory, cpu
	}
	memory, w.shared = temporary+w.buffers, 0
	for _, pid := range pids {
		memory += w.shareOf(pid)
	}
	return memory + max(0, held-w.shared), cpu
}

// processes lists all in the sandbox but this one.
func (w *watch) processes() []string {
	pids := w.numbers("/proc")
	for i, pid := range pids {
		if pid == "1" {
			return append(pids[:i], pids[i+1:]...)
		}
	}
	return pids
}

// numbers lists the entries of a folder whose names are numbers.
func (w *watch) numbers(dir string) []string {
	fd, err := syscall.Open(dir, syscall.O_RDONLY|syscall.O_DIRECTORY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	defer func() { _ = syscall.Close(fd) }()
	var pids []string
	for {
		n, err := syscall.ReadDirent(fd, w.dir[:])
		if err != nil || n <= 0 {
			return pids
		}
		_, _, names := syscall.ParseDirent(w.dir[:n], -1, nil)
		for _, name := range names {
			if name[0] >= '0' && name[0] <= '9' {
				pids = append(pids, name)
			}
		}
	}
}

// status is what the kernel tells of a process's memory, and the folder where it does: the
// first thread's, or another's if that has ended and the others go on.
func (w *watch) status(pid string) (dir string, text []byte) {
	dir = "/proc/" + pid
	text = readFile(dir+"/status", w.text[:])
	if _, told := value(text, ofMemory); told {
		return dir, text
	}
	if n, _ := value(text, "\nThreads:"); n < 2 {
		return dir, text
	}
	for _, thread := range w.numbers(dir + "/task") {
		other := "/proc/" + thread // it is there, though not listed
		text = readFile(other+"/status", w.text[:])
		if _, told := value(text, ofMemory); told {
			return other, text
		}
	}
	return dir, nil
}

// ofMemory begins a line that is missing where a thread or process has ended.
const ofMemory = "\nRssAnon:"

// processUse reads what one process uses: memory of its own and processor time, that of
// its children included once they are gone. It is nothing if it has ended.
func (w *watch) processUse(pid string) (memory, cpu int64) {
	_, status := w.status(pid)
	shared := kilobytes(status, "\nRssShmem:")
	memory = kilobytes(status, ofMemory) + shared
	if tables := kilobytes(status, "\nVmPTE:"); tables > freeTables {
		memory += tables - freeTables
	}
	w.shared += shared
	stat := readFile("/proc/"+pid+"/stat", w.text[:])
	// The name before the last ")" may hold anything; utime is the 12th word after it,
	// then stime and both of the children.
	at := len(stat)
	for at > 0 && stat[at-1] != ')' {
		at--
	}
	word := 0
	for i := at; i < len(stat); i++ {
		if stat[i] != ' ' && (i == at || stat[i-1] == ' ') {
			if word++; word >= 12 && word <= 15 {
				cpu += digits(stat[i:]) * (nanosecondsInSecond / userHz)
			}
		}
	}
	return memory, cpu
}

// shareOf is a process's memory with shared pages divided among those who share them.
func (w *watch) shareOf(pid string) int64 {
	dir, text := w.status(pid)
	tables := max(0, kilobytes(text, "\nVmPTE:")-freeTables)
	text = readFile(dir+"/smaps_rollup", w.text[:])
	if len(text) == 0 { // it hides, so it gets no benefit
		memory, _ := w.processUse(pid)
		return memory
	}
	shared := kilobytes(text, "\nPss_Shmem:")
	w.shared += shared
	return kilobytes(text, "\nPss_Anon:") + shared + tables
}

// kilobytes finds a "Name:  123 kB" line and returns bytes.
func kilobytes(text []byte, name string) int64 {
	n, _ := value(text, name)
	return n << 10
}

// value finds the number in the line that starts with name.
func value(text []byte, name string) (n int64, found bool) {
	for i := 0; i+len(name) < len(text); i++ {
		if string(text[i:i+len(name)]) == name {
			rest := text[i+len(name):]
			for len(rest) > 0 && (rest[0] == ' ' || rest[0] == '\t') {
				rest = rest[1:]
			}
			return digits(rest), true
		}
	}
	return 0, false
}

// digits reads the number that text starts with.
func digits(text []byte) int64 {
	var n int64
	for _, b := range text {
		if b < '0' || b > '9' {
			break
		}
		n = n*10 + int64(b-'0')
	}
	return n
}

func tmpfsUse(dir string) int64 {
	var st syscall.Statfs_t
	if syscall.Statfs(dir, &st) != nil {
		return 0
	}
	return int64(st.Blocks-st.Bfree) * int64(st.Bsize)
}

func childrenTime() int64 {
	var u syscall.Rusage
	if syscall.Getrusage(rusageChildren, &u) != nil {
		return 0
	}
	return u.Utime.Nano() + u.Stime.Nano()
}

// reap collects every process of the sandbox until none is left, and says how the
// program ended. What outlives the program is ended with it.
func (w *watch) reap(program int) Report {
	var r Report
	for {
		var ws syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &ws, 0, nil)
		switch {
		case err == syscall.EINTR:
			continue
		case err != nil: // no process is left
			return w.finish(r)
		case pid == program:
			r.Status = int(ws)
			w.over.Store(true)
			_ = syscall.Kill(-1, syscall.SIGKILL)
		}
	}
}

func (w *watch) finish(r Report) Report {
	var u syscall.Rusage
	if syscall.Getrusage(rusageChildren, &u) == nil {
		r.CPU = u.Utime.Nano() + u.Stime.Nano()
		r.MaxRSS = int64(u.Maxrss) << 10
	}
	r.Peak = w.peak.Load()
	if syscall.WaitStatus(r.Status).Signaled() || w.asked.Load() {
		r.Kill = Kill(w.why.Load())
	}
	return r
}
