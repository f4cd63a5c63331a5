package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/egress"
	"github.com/spare-compute/spare/sandbox/cgroup"
	"github.com/spare-compute/spare/sandbox/first"
)

// Default lists this system's runtimes, best first.
func Default() []Runtime { return []Runtime{linux{}} }

// Unavailable is what a system without any runtime reports; Linux has one to probe.
func Unavailable() spare.Capability {
	return spare.Capability{Runtime: linux{}.Name(), Reason: "no runtime was probed"}
}

// linux contains programs with the kernel's own means: namespaces, a root of its own,
// no capabilities, resource limits. It works for root and for an ordinary user.
type linux struct {
	without []string    // walls left out; tests only
	probing bool        // try the walls instead of running a program
	rule    egress.Rule // what programs with Outbound may call; its zero value but for tests
}

func (linux) Name() string { return "linux" }

const (
	// ownID is the user and group that programs run as on the host when Spare is root;
	// inside they are first.ID. It lies in the range that systemd's allocation of ids
	// names unused (60578–61183).
	ownID = 60999

	defaultProcesses = 1024
	defaultFiles     = 1024

	killGrace = 5 * time.Second // for the first process to end the rest and report
)

// Run implements Runtime.
func (l linux) Run(ctx context.Context, s Spec) (Result, error) {
	if err := s.Check(); err != nil {
		return Result{}, err
	}
	if err := unserved(s); err != nil {
		return Result{}, err
	}
	if err := context.Cause(ctx); err != nil {
		return Result{}, err
	}
	// The kernel ties the first process's life to the thread that starts it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()

	r := newRun(l, s)
	defer r.close()
	if err := r.prepare(); err != nil {
		return Result{}, err
	}
	if err := r.start(); err != nil {
		return Result{}, explain(os.DirFS("/proc/sys"), err)
	}
	rep, err := r.wait(ctx)
	if err != nil {
		return Result{}, err
	}
	return r.result(rep)
}

// unserved refuses what this runtime cannot do.
func unserved(s Spec) error {
	switch {
	case s.Deterministic:
		return errors.New("run in the sandbox: only the wasm runtime is deterministic")
	case len(s.GPUs) > 0:
		return errors.New("run in the sandbox: only the engine runtime passes a GPU through")
	}
	return nil
}

// run is one Run on its way.
type run struct {
	linux   linux
	spec    Spec
	orders  first.Orders
	out     *output
	first   *os.Process
	control *os.File // orders and kills go in here
	reports int      // read by the thread that waits for the end, and by nothing else
	disk    *diskUse
	cpus    []int
	group   *cgroup.Group // nil where there are none
	freezes bool          // the group can be frozen
	leaves  bool          // the first process ends by itself, and the group is taken away after it
	use     use

	steering

	theirs  []*os.File // ends for the first process
	ours    []*os.File
	drained sync.WaitGroup
	wayOut  *wayOut
}

func newRun(l linux, s Spec) *run {
	r := &run{linux: l, spec: s, reports: -1, out: newOutput(s.Limits.Output)}
	if !l.has(wallOutputCap) {
		r.out = newOutput(0)
	}
	r.done, r.answers = make(chan struct{}), make(chan first.Report, 1)
	r.clock.since = time.Now()
	if l.has(wallWallTime) {
		r.clock.limit = s.Limits.Wall
	}
	return r
}

func (r *run) close() {
	for _, f := range slices.Concat(r.theirs, r.ours) {
		_ = f.Close()
	}
	if r.reports >= 0 {
		_ = unix.Close(r.reports)
	}
	r.wayOut.close()
	freeCPUs(r.cpus)
	if !r.leaves {
		r.dropGroup()
	}
}

// prepare makes everything ready that the first process gets: folders it may use, mounts
// only the parent can make, and its orders.
func (r *run) prepare() error {
	l := r.spec.Limits
	r.cpus = takeCPUs(l.CPUs)
	r.orders = first.Orders{
		Argv: r.spec.Argv, Env: environment(r.spec), Dir: r.spec.Dir, CPUs: r.cpus,
		Memory: l.Memory, Processes: l.Processes, Files: l.Files, CPU: int64(l.CPU), Disk: l.Disk, Tmp: tmpSize(l.Memory), Nice: l.Nice,
	}
	if r.orders.Dir == "" {
		r.orders.Dir = "/tmp"
	}
	if l.Processes == 0 {
		r.orders.Processes = defaultProcesses
	}
	if l.Files == 0 {
		r.orders.Files = defaultFiles
	}
	var writable []string
	for _, m := range r.spec.Mounts {
		o, err := r.mount(m)
		if err != nil {
			return fmt.Errorf("mount %s in the sandbox: %w", m.Host, err)
		}
		r.orders.Mounts = append(r.orders.Mounts, o)
		if m.Writable {
			writable = append(writable, m.Host)
		}
	}
	r.disk = newDiskUse(writable, l)
	r.newGroup()
	var err error
	if r.wayOut, err = r.newWayOut(r.linux.rule); err != nil {
		return err
	}
	return r.walls(r.linux)
}

func (r *run) mount(m Mount) (first.Mount, error) {
	info, err := os.Stat(m.Host)
	if err != nil {
		return first.Mount{}, err
	}
	if !info.IsDir() && !info.Mode().IsRegular() {
		return first.Mount{}, errors.New("it is neither a folder nor a plain file")
	}
	o := first.Mount{Host: m.Host, Inner: m.Inner, Folder: info.IsDir(), Writable: m.Writable}
	if !r.linux.ownUser() {
		return o, nil
	}
	if err := give(m.Host, info, m.Writable); err != nil {
		return o, err
	}
	// Root reaches folders that the first process, already in its own user namespace,
	// does not: another user's home, say. So the parent takes the tree.
	fd, err := cloneTree(m.Host, m.Writable)
	switch {
	case errors.Is(err, unix.EPERM): // a root without the right to mount, in a container
		return o, nil
	case err != nil:
		return o, err
	}
	o.FD = first.MountFD + len(r.theirs)
	r.theirs = append(r.theirs, os.NewFile(uintptr(fd), m.Host))
	return o, nil
}

// start brings the first process to life and hands it its orders.
func (r *run) start() error {
	control, ourControl, err := os.Pipe()
	if err != nil {
		return err
	}
	r.control, r.ours = ourControl, append(r.ours, ourControl)
	r.theirs = slices.Insert(r.theirs, 0, control)
	// Not through the runtime's poller: the report is waited for by a thread of this
	// run's own, which the kernel wakes at once.
	var report [2]int
	if err := unix.Pipe2(report[:], unix.O_CLOEXEC); err != nil {
		return err
	}
	r.reports = report[0]
	r.theirs = slices.Insert(r.theirs, 1, os.NewFile(uintptr(report[1]), "report"))
	if err := r.standardFiles(); err != nil {
		return err
	}
	if err := r.launch(); err != nil {
		return fmt.Errorf("start the sandbox's first process: %w", err)
	}
	for _, f := range r.theirs {
		_ = f.Close()
	}
	r.theirs = nil
	// An error to write means that the process is gone: wait finds out why.
	_, _ = r.control.Write(first.Encode(&r.orders))
	r.wayOut.serve()
	return nil
}

// standardFiles puts stdin, stdout and stderr before the first process's other files. Both
// outputs go through one pipe if they have one writer.
func (r *run) standardFiles() error {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	r.theirs = slices.Insert(r.theirs, 0, null, null, null)
	connect := func(w io.Writer, to int) error {
		if w == nil {
			return nil
		}
		read, write, err := os.Pipe()
		if err != nil {
			return err
		}
		r.ours, r.theirs[to] = append(r.ours, read), write
		if r.linux.ownUser() { // else the program could not open /dev/stdout
			if err := write.Chown(ownID, ownID); err != nil {
				return err
			}
		}
		r.drained.Go(func() { r.out.drain(read, w) })
		return nil
	}
	if err := connect(r.spec.Stdout, 1); err != nil {
		return err
	}
	if sameWriter(r.spec.Stdout, r.spec.Stderr) {
		r.theirs[2] = r.theirs[1]
		return nil
	}
	return connect(r.spec.Stderr, 2)
}

// sameWriter compares without panicking on writers that cannot be compared.
func sameWriter(a, b io.Writer) (same bool) {
	defer func() {
		if recover() != nil {
			same = false
		}
	}()
	return a == b
}

// wait steers the run to its end and reads the report.
func (r *run) wait(ctx context.Context) (first.Report, error) {
	release := r.steer(ctx)
	rep, err := r.report()
	release()
	if err == nil {
		r.use.last(r.group)
		// A pause that came as the program ended has frozen the first process too, and
		// nobody is left to resume it.
		if r.group != nil && r.freezes && r.paused.Load() {
			_ = r.group.Thaw()
		}
		// Everything inside is gone but the first process, which has nothing left to do
		// than to exit. Taking the namespaces down takes the kernel a moment that
		// nobody needs to wait for.
		r.leaves = true
		leaving.Go(func() {
			_, _ = r.first.Wait()
			r.dropGroup()
		})
		r.drained.Wait()
		return rep, nil
	}
	state, waitErr := r.first.Wait()
	r.drained.Wait()
	r.use.last(r.group)
	kill := first.Kill(r.kill.Load())
	if r.use.killed { // the kernel may have taken the first process with the rest
		kill = first.KillMemory
	}
	if kill != first.KillNone { // it was killed with all the rest
		var used time.Duration
		if waitErr == nil {
			used = state.SystemTime() + state.UserTime()
		}
		return first.Report{Kill: kill, Status: int(unix.SIGKILL), CPU: int64(used)}, nil
	}
	if waitErr == nil {
		waitErr = errors.New(state.String())
	}
	return rep, fmt.Errorf("the sandbox's first process ended without a report (%w): the machine may be out of memory", errors.Join(waitErr, err))
}

// report reads what the first process says until that is how the run ended.
func (r *run) report() (first.Report, error) {
	for {
		var rep first.Report
		if err := first.Decode(blocking(r.reports), &rep); err != nil || rep.Answer == 0 {
			return rep, err
		}
		r.answers <- rep // there is room: one question is asked at a time
	}
}

// blocking reads a descriptor without the runtime's poller.
type blocking int

func (fd blocking) Read(b []byte) (int, error) {
	for {
		n, err := unix.Read(int(fd), b)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return 0, err
		case n == 0:
			return 0, io.EOF
		}
		return n, nil
	}
}

// causes are the reasons to end a run in this package's words.
var causes = map[first.Kill]Cause{
	first.KillMemory: KilledMemory, first.KillTime: KilledTime, first.KillDisk: KilledDisk, first.KillCancel: KilledCancel,
}

func (r *run) result(rep first.Report) (Result, error) {
	switch {
	case rep.Failed != "":
		return Result{}, explain(os.DirFS("/proc/sys"), errors.New(rep.Failed))
	case rep.NoStart != "":
		return Result{}, &StartError{Program: rep.NoStart, Err: syscall.Errno(rep.Errno)}
	}
	ws := syscall.WaitStatus(rep.Status)
	res := Result{
		ExitCode: ws.ExitStatus(), Cause: causes[rep.Kill], CPU: r.use.time(time.Duration(rep.CPU)), Wall: r.clock.elapsed(),
		PeakMemory: max(rep.Peak, rep.MaxRSS, r.use.peak), Written: r.disk.written(), OutputTruncated: r.out.truncated.Load(),
	}
	if ws.Signaled() {
		res.Signal = unix.SignalName(ws.Signal())
	}
	if res.Cause == "" {
		res.Cause = causeOf(ws)
	}
	if res.Cause == Exited || res.Cause == KilledSignal {
		switch { // it was quicker than the watches
		case r.use.killed:
			res.Cause = KilledMemory
		case r.disk.exceeded() && r.linux.has(wallDiskWatch):
			res.Cause = KilledDisk
		}
	}
	if res.Cause == KilledMemory { // the kernel holds it at the limit, which no look may have seen
		res.PeakMemory = max(res.PeakMemory, r.spec.Limits.Memory)
	}
	return res, nil
}

// causeOf tells the kernel's own limits from other signals.
func causeOf(ws syscall.WaitStatus) Cause {
	switch {
	case !ws.Signaled():
		return Exited
	case ws.Signal() == syscall.SIGXCPU:
		return KilledTime
	case ws.Signal() == syscall.SIGXFSZ:
		return KilledDisk
	}
	return KilledSignal
}

// environment is what the program gets: the image's variables, those that the caller
// names, which win, and what every program needs.
func environment(s Spec) []string {
	env := slices.Clone(s.Env)
	add := func(v string) {
		name, _, _ := strings.Cut(v, "=")
		if !slices.ContainsFunc(env, func(has string) bool { return strings.HasPrefix(has, name+"=") }) {
			env = append(env, v)
		}
	}
	for _, v := range proxyEnv(s.Network) {
		add(v)
	}
	path := "PATH=/usr/local/bin:/usr/bin:/bin"
	if s.Image != nil {
		path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin" // as engines do
		for _, v := range s.Image.Env {
			if strings.Contains(v, "=") && !strings.ContainsRune(v, 0) {
				add(v)
			}
		}
	}
	for _, v := range []string{path, "HOME=/tmp", "LANG=C.UTF-8"} {
		add(v)
	}
	return env
}

// tmpSize bounds /tmp and /dev/shm, each: they are memory.
func tmpSize(memory int64) int64 {
	if memory == 0 {
		return 512 << 20
	}
	return min(max(memory/2, 16<<20), 2<<30)
}
