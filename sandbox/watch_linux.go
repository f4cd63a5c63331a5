package sandbox

import (
	"bytes"
	"io"
	"os"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// watch ends a run that uses too much, in the first process. It reads the sandbox's own
// /proc, where there are no processes but the program's.
type watch struct {
	memory int64
	cpu    time.Duration
	cause  atomic.Pointer[Cause] // the first reason to end it
	peak   atomic.Int64
}

// watchPause is how often memory and processor time are looked at.
const watchPause = 100 * time.Millisecond

func newWatch(o orders) *watch { return &watch{memory: o.Memory, cpu: o.CPU} }

// end kills every process in the sandbox but this one.
func (w *watch) end(c Cause) {
	w.cause.CompareAndSwap(nil, &c)
	_ = unix.Kill(-1, unix.SIGKILL)
}

// obey follows the parent's orders. When the parent is gone, so is this process, and the
// kernel ends the rest with it.
func (w *watch) obey(control io.Reader) {
	var order [1]byte
	for {
		if _, err := io.ReadFull(control, order[:]); err != nil {
			os.Exit(1)
		}
		if c, ok := killBytes[order[0]]; ok {
			w.end(c)
		}
	}
}

// guard samples until the process ends. The peak is wanted even without a limit.
func (w *watch) guard() {
	for range time.Tick(watchPause) {
		use := w.sample()
		if use.memory > w.peak.Load() {
			w.peak.Store(use.memory)
		}
		if w.memory > 0 && use.memory > w.memory {
			w.end(KilledMemory)
		}
		if w.cpu > 0 && use.cpu > w.cpu {
			w.end(KilledTime)
		}
	}
}

// usage is what all processes use at one moment.
type usage struct {
	memory int64
	cpu    time.Duration
}

// sample adds up the sandbox. Memory that processes share after a fork is counted for
// each of them at first; only if that passes the limit the exact, costlier figure is read.
func (w *watch) sample() usage {
	u := usage{memory: tmpfsUse("/tmp") + tmpfsUse("/dev/shm"), cpu: childrenTime()}
	private := u.memory
	pids := processes()
	for _, pid := range pids {
		memory, cpu := processUse(pid)
		u.memory += memory
		u.cpu += cpu
	}
	if w.memory == 0 || u.memory <= w.memory {
		return u
	}
	exact := private
	for _, pid := range pids {
		exact += shareOf(pid)
	}
	u.memory = exact
	return u
}

// processes lists all in the sandbox but this one.
func processes() []string {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil
	}
	defer func() { _ = dir.Close() }()
	names, _ := dir.Readdirnames(-1)
	pids := names[:0]
	for _, n := range names {
		if n[0] >= '1' && n[0] <= '9' && n != "1" {
			pids = append(pids, n)
		}
	}
	return pids
}

// processUse reads what one process uses: memory of its own and processor time,
// that of its children included once they are gone.
func processUse(pid string) (memory int64, cpu time.Duration) {
	status, err := os.ReadFile("/proc/" + pid + "/status")
	if err != nil {
		return 0, 0 // it has ended
	}
	memory = field(status, "\nRssAnon:") + field(status, "\nRssShmem:")
	stat, err := os.ReadFile("/proc/" + pid + "/stat")
	if err != nil {
		return memory, 0
	}
	// The name before the last ")" may hold anything; utime is the 12th word after it.
	words := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	for i := 11; i <= 14 && i < len(words); i++ {
		ticks, _ := strconv.ParseInt(string(words[i]), 10, 64)
		cpu += time.Duration(ticks) * (time.Second / 100) // USER_HZ is 100 on every Linux
	}
	return memory, cpu
}

// shareOf is a process's memory with shared pages divided among those who share them.
func shareOf(pid string) int64 {
	text, err := os.ReadFile("/proc/" + pid + "/smaps_rollup")
	if err != nil {
		memory, _ := processUse(pid) // it hides, so it gets no benefit
		return memory
	}
	return field(text, "\nPss_Anon:") + field(text, "\nPss_Shmem:")
}

// field reads a "Name:  123 kB" line.
func field(text []byte, name string) int64 {
	_, rest, ok := bytes.Cut(text, []byte(name))
	if !ok {
		return 0
	}
	line, _, _ := bytes.Cut(rest, []byte("\n"))
	words := bytes.Fields(line)
	if len(words) == 0 {
		return 0
	}
	n, _ := strconv.ParseInt(string(words[0]), 10, 64)
	return n << 10
}

func tmpfsUse(dir string) int64 {
	var st unix.Statfs_t
	if unix.Statfs(dir, &st) != nil {
		return 0
	}
	return int64(st.Blocks-st.Bfree) * st.Bsize
}

func childrenTime() time.Duration {
	var u unix.Rusage
	if unix.Getrusage(unix.RUSAGE_CHILDREN, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// reap collects every process of the sandbox until none is left, and says how the
// program ended. What outlives the program is ended with it.
func (w *watch) reap(program int) report {
	var r report
	for {
		var ws unix.WaitStatus
		pid, err := unix.Wait4(-1, &ws, 0, nil)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil: // no process is left
			return w.finish(r)
		case pid == program:
			r.Status = int(ws)
			_ = unix.Kill(-1, unix.SIGKILL)
		}
	}
}

func (w *watch) finish(r report) report {
	var u unix.Rusage
	if unix.Getrusage(unix.RUSAGE_CHILDREN, &u) == nil {
		r.CPU = time.Duration(u.Utime.Nano() + u.Stime.Nano())
		r.MaxRSS = u.Maxrss << 10
	}
	r.Peak = w.peak.Load()
	ended := syscall.WaitStatus(r.Status)
	if c := w.cause.Load(); c != nil && ended.Signaled() {
		r.Cause = *c
	}
	return r
}
