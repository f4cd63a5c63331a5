package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/spare-compute/spare"
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
type linux struct{}

func (linux) Name() string { return "linux" }

const (
	argv0 = "spare-sandbox" // what the first process is called

	// ownID is the user and group that programs run as on the host when Spare is root;
	// inside they are first.ID. It lies in the range that systemd's allocation of ids
	// names unused (60578–61183).
	ownID = 60999

	defaultProcesses = 1024
	defaultFiles     = 1024

	killGrace = 5 * time.Second // for the first process to end the rest and report
)

// Run implements Runtime.
func (linux) Run(ctx context.Context, s Spec) (Result, error) {
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

	r := &run{spec: s, reports: -1, out: newOutput(s.Limits.Output), started: time.Now()}
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
	case s.Image != nil:
		return errors.New("run in the sandbox: the linux runtime runs no images yet")
	case s.Network != NoNetwork:
		return errors.New("run in the sandbox: the linux runtime has no network to offer yet")
	case s.Deterministic:
		return errors.New("run in the sandbox: only the wasm runtime is deterministic")
	case len(s.GPUs) > 0:
		return errors.New("run in the sandbox: only the engine runtime passes a GPU through")
	}
	return nil
}

// run is one Run on its way.
type run struct {
	spec    Spec
	orders  first.Orders
	out     *output
	started time.Time
	cmd     *exec.Cmd
	control *os.File // orders and kills go in here
	reports int      // read by the thread that waits for the end, and by nothing else
	disk    *diskUse
	cpus    []int
	kill    atomic.Int64 // why the parent ended it, a first.Kill

	theirs  []*os.File // ends for the first process
	ours    []*os.File
	drained sync.WaitGroup
}

func (r *run) close() {
	for _, f := range slices.Concat(r.theirs, r.ours) {
		_ = f.Close()
	}
	if r.reports >= 0 {
		_ = unix.Close(r.reports)
	}
	freeCPUs(r.cpus)
}

// prepare makes everything ready that the first process gets: folders it may use, mounts
// only the parent can make, and its orders.
func (r *run) prepare() error {
	l := r.spec.Limits
	r.cpus = takeCPUs(l.CPUs)
	r.orders = first.Orders{
		Argv: r.spec.Argv, Env: environment(r.spec.Env), Dir: r.spec.Dir, CPUs: r.cpus,
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
	r.disk = newDiskUse(writable, l.Disk)
	return nil
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
	if !ownOwner() {
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

// start executes this program again as the first process and hands it its orders.
func (r *run) start() error {
	mounts := r.theirs
	r.theirs = nil
	control, ourControl, err := os.Pipe()
	if err != nil {
		return err
	}
	r.control, r.ours = ourControl, append(r.ours, ourControl)
	r.theirs = slices.Concat([]*os.File{control}, mounts)
	// Not through the runtime's poller: the report is waited for by a thread of this
	// run's own, which the kernel wakes at once.
	var report [2]int
	if err := unix.Pipe2(report[:], unix.O_CLOEXEC); err != nil {
		return err
	}
	r.reports = report[0]
	r.theirs = slices.Insert(r.theirs, 1, os.NewFile(uintptr(report[1]), "report"))

	r.cmd = &exec.Cmd{Path: "/proc/self/exe", Args: []string{argv0}, Env: []string{first.Env, "GOMAXPROCS=1", "GODEBUG=asyncpreemptoff=1"}, Dir: "/"}
	r.cmd.ExtraFiles = r.theirs
	r.cmd.SysProcAttr = attributes()
	if err := r.pipeOutput(); err != nil {
		return err
	}
	if err := r.cmd.Start(); err != nil {
		return fmt.Errorf("start the sandbox's first process: %w", err)
	}
	for _, f := range r.theirs {
		_ = f.Close()
	}
	r.theirs = nil
	// An error to write means that the process is gone: wait finds out why.
	_, _ = r.control.Write(first.Encode(&r.orders))
	return nil
}

// pipeOutput connects stdout and stderr. Both go through one pipe if they have one writer.
func (r *run) pipeOutput() error {
	connect := func(w io.Writer) (*os.File, error) {
		if w == nil {
			return nil, nil
		}
		read, write, err := os.Pipe()
		if err != nil {
			return nil, err
		}
		r.ours, r.theirs = append(r.ours, read), append(r.theirs, write)
		if ownOwner() { // else the program could not open /dev/stdout
			if err := write.Chown(ownID, ownID); err != nil {
				return nil, err
			}
		}
		r.drained.Go(func() { r.out.drain(read, w) })
		return write, nil
	}
	out, err := connect(r.spec.Stdout)
	if err != nil {
		return err
	}
	errOut := out
	if !sameWriter(r.spec.Stdout, r.spec.Stderr) {
		if errOut, err = connect(r.spec.Stderr); err != nil {
			return err
		}
	}
	if out != nil {
		r.cmd.Stdout = out
	}
	if errOut != nil {
		r.cmd.Stderr = errOut
	}
	return nil
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

// attributes are the namespaces of the first process. Its capabilities in them are
// ambient, else they would be lost when it is executed with an id other than 0.
func attributes() *syscall.SysProcAttr {
	a := &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWUSER | unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET |
			unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWCGROUP,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: first.ID, HostID: os.Geteuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: first.ID, HostID: os.Getegid(), Size: 1}},
		AmbientCaps: []uintptr{unix.CAP_SYS_ADMIN, unix.CAP_SETPCAP, unix.CAP_SYS_RESOURCE},
		Pdeathsig:   syscall.SIGKILL,
		Setsid:      true,
	}
	if ownOwner() { // the host's root is not even mapped inside, and is left for good
		a.UidMappings[0].HostID, a.GidMappings[0].HostID = ownID, ownID
		a.GidMappingsEnableSetgroups = true
		a.Credential = &syscall.Credential{Uid: first.ID, Gid: first.ID}
	}
	return a
}

// wait steers the run to its end and reads the report.
func (r *run) wait(ctx context.Context) (first.Report, error) {
	release := r.steer(ctx)
	var rep first.Report
	err := first.Decode(blocking(r.reports), &rep)
	release()
	if err == nil {
		// Everything inside is gone but the first process, which has nothing left to do
		// than to exit. Taking the namespaces down takes the kernel a moment that
		// nobody needs to wait for.
		go func() { _ = r.cmd.Wait() }()
		r.drained.Wait()
		return rep, nil
	}
	waitErr := r.cmd.Wait()
	r.drained.Wait()
	if kill := first.Kill(r.kill.Load()); kill != first.KillNone { // it did not end in time and was killed with all the rest
		used := r.cmd.ProcessState.SystemTime() + r.cmd.ProcessState.UserTime()
		return first.Report{Kill: kill, Status: int(unix.SIGKILL), CPU: int64(used)}, nil
	}
	return rep, fmt.Errorf("the sandbox's first process ended without a report (%w): the machine may be out of memory", errors.Join(waitErr, err))
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

// steer watches ctx, the clock and the disk until it is released.
func (r *run) steer(ctx context.Context) (release func()) {
	stops := []func() bool{context.AfterFunc(ctx, func() { r.stop(first.KillCancel) })}
	if wall := r.spec.Limits.Wall; wall > 0 {
		stops = append(stops, time.AfterFunc(wall, func() { r.stop(first.KillTime) }).Stop)
	}
	done := make(chan struct{})
	var watching sync.WaitGroup
	if r.disk.limited() {
		watching.Go(func() { r.watchDisk(done) })
	}
	return func() {
		for _, stop := range stops {
			stop()
		}
		close(done)
		watching.Wait()
	}
}

func (r *run) watchDisk(done <-chan struct{}) {
	timer := time.NewTimer(r.disk.pause())
	defer timer.Stop()
	for {
		select {
		case <-done:
			return
		case <-timer.C:
			if r.disk.over() {
				r.stop(first.KillDisk)
			}
			timer.Reset(r.disk.pause())
		}
	}
}

// stop orders the first process to end the run. If it cannot, it is ended itself, and
// the kernel ends the rest with it.
func (r *run) stop(k first.Kill) {
	if !r.kill.CompareAndSwap(int64(first.KillNone), int64(k)) {
		return
	}
	_, _ = r.control.Write([]byte{byte(k)}) // fails only if it has just ended
	time.AfterFunc(killGrace, func() { _ = r.cmd.Process.Kill() })
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
		ExitCode: ws.ExitStatus(), Cause: causes[rep.Kill], CPU: time.Duration(rep.CPU), Wall: time.Since(r.started),
		PeakMemory: max(rep.Peak, rep.MaxRSS), Written: r.disk.written(), OutputTruncated: r.out.truncated.Load(),
	}
	if ws.Signaled() {
		res.Signal = unix.SignalName(ws.Signal())
	}
	if res.Cause == "" {
		res.Cause = causeOf(ws)
	}
	if (res.Cause == Exited || res.Cause == KilledSignal) && r.disk.exceeded() {
		res.Cause = KilledDisk // it was quicker than the watch
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

// environment adds what every program needs to what the caller names.
func environment(env []string) []string {
	env = slices.Clone(env)
	for _, d := range []string{"PATH=/usr/local/bin:/usr/bin:/bin", "HOME=/tmp", "LANG=C.UTF-8"} {
		name := d[:slices.Index([]byte(d), '=')+1]
		if !slices.ContainsFunc(env, func(v string) bool { return len(v) >= len(name) && v[:len(name)] == name }) {
			env = append(env, d)
		}
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
