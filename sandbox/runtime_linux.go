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
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/spare-compute/spare"
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
	argv0 = "spare-sandbox" // how the first process knows what it is

	// innerID is the user and group that programs run as, as they see it.
	innerID = 1000
	// ownID is the same user and group on the host when Spare runs as root. It lies in
	// the range that systemd's allocation of ids names unused (60578–61183).
	ownID = 60999

	defaultProcesses = 1024
	defaultFiles     = 1024

	killGrace = 5 * time.Second // for the first process to end the rest and report
)

// Files of the first process beyond stdin, stdout and stderr.
const (
	controlFD = 3 + iota // orders come in; its end means that the parent is gone
	reportFD
	mountFD // the first of the mounts made ready by the parent
)

// Run implements Runtime.
func (linux) Run(ctx context.Context, s Spec) (Result, error) {
	if err := s.check(); err != nil {
		return Result{}, err
	}
	if err := context.Cause(ctx); err != nil {
		return Result{}, err
	}
	// The kernel ties the first process's life to the thread that starts it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()

	r := &run{spec: s, out: newOutput(s.Limits.Output), started: time.Now()}
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

// run is one Run on its way.
type run struct {
	spec    Spec
	orders  orders
	out     *output
	started time.Time
	cmd     *exec.Cmd
	control *os.File // orders and kills go in here
	reports *os.File
	disk    *diskUse
	cpus    []int
	cause   Cause // why the parent ended it

	theirs  []*os.File // ends for the first process
	ours    []*os.File
	drained sync.WaitGroup
}

func (r *run) close() {
	for _, f := range slices.Concat(r.theirs, r.ours) {
		_ = f.Close()
	}
	freeCPUs(r.cpus)
}

// prepare makes everything ready that the first process gets: folders it may use, mounts
// only the parent can make, and its orders.
func (r *run) prepare() error {
	l := r.spec.Limits
	r.cpus = takeCPUs(l.CPUs)
	r.orders = orders{
		Argv: r.spec.Argv, Env: environment(r.spec.Env), Dir: r.spec.Dir, CPUs: r.cpus,
		Memory: l.Memory, Processes: l.Processes, Files: l.Files, CPU: l.CPU, Disk: l.Disk, Tmp: tmpSize(l.Memory), Nice: l.Nice,
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

func (r *run) mount(m Mount) (order, error) {
	info, err := os.Stat(m.Host)
	if err != nil {
		return order{}, err
	}
	if !info.IsDir() && !info.Mode().IsRegular() {
		return order{}, errors.New("it is neither a folder nor a plain file")
	}
	o := order{Host: m.Host, Inner: m.Inner, Folder: info.IsDir(), Writable: m.Writable}
	if !ownOwner() {
		return o, nil
	}
	if err := give(m.Host, info, m.Writable); err != nil {
		return o, err
	}
	// Root reaches folders that the first process, already in its own user namespace,
	// does not: another user's home, say. So the parent takes the tree.
	fd, err := cloneTree(m.Host, treeAttr(m.Writable))
	switch {
	case errors.Is(err, unix.EPERM): // a root without the right to mount, in a container
		return o, nil
	case err != nil:
		return o, err
	}
	o.FD = mountFD + len(r.theirs)
	r.theirs = append(r.theirs, os.NewFile(uintptr(fd), m.Host))
	return o, nil
}

// start executes this program again as the first process and hands it its orders.
func (r *run) start() error {
	mounts := r.theirs
	r.theirs = nil
	pipe := func() (read, write *os.File, err error) {
		read, write, err = os.Pipe()
		return read, write, err
	}
	control, ourControl, err := pipe()
	if err != nil {
		return err
	}
	ourReport, report, err := pipe()
	if err != nil {
		return errors.Join(err, control.Close(), ourControl.Close())
	}
	r.control, r.reports = ourControl, ourReport
	r.ours = append(r.ours, ourControl, ourReport)
	r.theirs = slices.Concat([]*os.File{control, report}, mounts)

	r.cmd = &exec.Cmd{Path: "/proc/self/exe", Args: []string{argv0}, Env: []string{"GOMAXPROCS=1", "GODEBUG=asyncpreemptoff=1"}, Dir: "/"}
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
	_, _ = r.control.Write(encode(&r.orders))
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
		UidMappings: []syscall.SysProcIDMap{{ContainerID: innerID, HostID: os.Geteuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: innerID, HostID: os.Getegid(), Size: 1}},
		AmbientCaps: []uintptr{unix.CAP_SYS_ADMIN, unix.CAP_SETPCAP, unix.CAP_SYS_RESOURCE},
		Pdeathsig:   syscall.SIGKILL,
		Setsid:      true,
	}
	if ownOwner() { // the host's root is not even mapped inside, and is left for good
		a.UidMappings[0].HostID, a.GidMappings[0].HostID = ownID, ownID
		a.GidMappingsEnableSetgroups = true
		a.Credential = &syscall.Credential{Uid: innerID, Gid: innerID}
	}
	return a
}

// wait steers the run to its end and reads the report.
func (r *run) wait(ctx context.Context) (report, error) {
	var rep report
	reported := make(chan error, 1)
	go func() { reported <- decode(r.reports, &rep) }()
	err := r.steer(ctx, reported)
	waitErr := r.cmd.Wait()
	r.drained.Wait()

	if err == nil {
		return rep, nil
	}
	if r.cause != "" { // it did not end in time and was killed with all the rest
		used := r.cmd.ProcessState.SystemTime() + r.cmd.ProcessState.UserTime()
		return report{Cause: r.cause, Status: int(unix.SIGKILL), CPU: used}, nil
	}
	return rep, fmt.Errorf("the sandbox's first process ended without a report (%w): the machine may be out of memory", errors.Join(waitErr, err))
}

// steer watches the clock, the disk and ctx until the report is there.
func (r *run) steer(ctx context.Context, reported <-chan error) error {
	var wall, backstop <-chan time.Time
	if w := r.spec.Limits.Wall; w > 0 {
		t := time.NewTimer(w)
		defer t.Stop()
		wall = t.C
	}
	stop := func(c Cause) {
		if r.cause != "" {
			return
		}
		r.cause = c
		_, _ = r.control.Write([]byte{causeByte(c)}) // fails only if it has just ended
		t := time.NewTimer(killGrace)
		backstop = t.C
	}
	cancelled := ctx.Done()
	disk := time.NewTimer(r.disk.pause())
	defer disk.Stop()
	for {
		select {
		case err := <-reported:
			return err
		case <-cancelled:
			stop(KilledCancel)
			cancelled = nil
		case <-wall:
			stop(KilledTime)
		case <-disk.C:
			if r.disk.over() {
				stop(KilledDisk)
			}
			disk.Reset(r.disk.pause())
		case <-backstop:
			_ = r.cmd.Process.Kill()
		}
	}
}

// killBytes are the parent's orders to end a run, on the control pipe.
var killBytes = map[byte]Cause{'t': KilledTime, 'd': KilledDisk, 'c': KilledCancel}

func causeByte(c Cause) byte {
	for b, cause := range killBytes {
		if cause == c {
			return b
		}
	}
	return 0
}

func (r *run) result(rep report) (Result, error) {
	switch {
	case rep.Failed != "":
		return Result{}, explain(os.DirFS("/proc/sys"), errors.New(rep.Failed))
	case rep.NoStart != "":
		return Result{}, &StartError{Program: rep.NoStart, Err: syscall.Errno(rep.Errno)}
	}
	ws := syscall.WaitStatus(rep.Status)
	res := Result{
		ExitCode: ws.ExitStatus(), Cause: rep.Cause, CPU: rep.CPU, Wall: time.Since(r.started),
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
