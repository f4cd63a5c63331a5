package sandbox

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/spare-compute/spare"
)

// Default lists this system's runtimes, best first.
func Default() []Runtime { return []Runtime{&seatbelt{}} }

// Unavailable is what a system without any runtime reports; macOS has one to probe.
func Unavailable() spare.Capability {
	return spare.Capability{Runtime: "seatbelt", Reason: "no runtime was probed"}
}

// seatbelt contains programs with macOS's own sandbox, by a profile for each run. A
// program keeps the owner's name and sees the owner's processes, but can read, write and
// reach nothing of theirs; limits are kept by resource limits and by looking. What that
// promises and what not is in docs/sandbox-other-systems.md.
type seatbelt struct {
	once   sync.Once
	python interpreter
}

// seatbeltPython are the interpreters that are tried, first to last. /usr/bin/python3 is
// not one: without Apple's developer tools it opens a dialog on the owner's screen.
var seatbeltPython = []string{
	"/Library/Frameworks/Python.framework/Versions/Current/bin/python3",
	"/opt/homebrew/bin/python3", "/usr/local/bin/python3", "/opt/local/bin/python3",
	"/Library/Developer/CommandLineTools/usr/bin/python3",
	"/Applications/Xcode.app/Contents/Developer/usr/bin/python3",
}

// interpreter is the Python that programs get.
type interpreter struct {
	file    string
	folders []string
}

func (*seatbelt) Name() string { return "seatbelt" }

// Probe implements Runtime.
func (s *seatbelt) Probe(ctx context.Context) spare.Capability {
	if _, err := os.Stat(sandboxExec); err != nil {
		return spare.Capability{Runtime: s.Name(), Reason: "this macOS has no " + sandboxExec}
	}
	return probeNatively(ctx, s, []string{
		"sandbox profile", "own folders", "no network", "resource limits", "memory watch", "disk watch", "output cap", "wall time", "cpu time",
	})
}

// find looks for the interpreter, once.
func (s *seatbelt) find(ctx context.Context) interpreter {
	s.once.Do(func() {
		for _, file := range seatbeltPython {
			real, err := filepath.EvalSymlinks(file)
			if err != nil {
				continue
			}
			// The owner's own interpreter, asked where its libraries are.
			out, err := exec.CommandContext(ctx, real, "-I", "-S", "-c", "import sys; print(sys.base_prefix)").Output()
			if err != nil {
				continue
			}
			prefix, err := filepath.EvalSymlinks(strings.TrimSpace(string(out)))
			if err != nil {
				continue
			}
			s.python = interpreter{real, seatbeltFolders(real, prefix)}
			return
		}
	})
	return s.python
}

// seatbeltRun is one Run on its way.
type seatbeltRun struct {
	spec   Spec
	home   string // the run's own folder
	places *places
	sinks  *sinks
	cmd    *exec.Cmd
	orders seatbeltOrders
}

// Run implements Runtime.
func (s *seatbelt) Run(ctx context.Context, spec Spec) (Result, error) {
	if err := spec.Check(); err != nil {
		return Result{}, err
	}
	if err := unservedNatively(s.Name(), spec); err != nil {
		return Result{}, err
	}
	if err := context.Cause(ctx); err != nil {
		return Result{}, err
	}
	home, err := os.MkdirTemp("", "spare-run-")
	if err != nil {
		return Result{}, fmt.Errorf("make the run's folder: %w", err)
	}
	defer removeAll(home)
	if home, err = filepath.EvalSymlinks(home); err != nil {
		return Result{}, fmt.Errorf("make the run's folder: %w", err)
	}
	r := &seatbeltRun{spec: spec, home: home, sinks: newSinks(spec.Limits.Output)}
	if err := r.prepare(s.find(ctx)); err != nil {
		return Result{}, err
	}
	return r.run(ctx)
}

// removeAll removes a folder in which a program may have closed folders.
func removeAll(dir string) {
	if os.RemoveAll(dir) == nil {
		return
	}
	_ = filepath.WalkDir(dir, func(name string, e os.DirEntry, _ error) error {
		if e != nil && e.IsDir() {
			_ = os.Chmod(name, 0o700)
		}
		return nil
	})
	_ = os.RemoveAll(dir)
}

// prepare lays out the run's folders and writes its profile and its orders.
func (r *seatbeltRun) prepare(python interpreter) error {
	var err error
	if r.places, err = newPlaces(r.spec, r.home); err != nil {
		return err
	}
	paths := []string{"/usr/bin", "/bin", "/usr/sbin", "/sbin"}
	if python.file != "" {
		paths = append([]string{filepath.Dir(python.file)}, paths...)
		for _, dir := range python.folders {
			if filepath.Base(dir) == "bin" {
				paths = append(paths, dir)
			}
		}
	}
	argv := r.places.arguments(r.spec.Argv)
	switch {
	case argv[0] == "python3" && python.file == "":
		return &StartError{Program: argv[0], Err: os.ErrNotExist}
	case argv[0] == "python3":
		argv[0] = python.file
	case !strings.Contains(argv[0], "/"):
		if argv[0], err = find(argv[0], paths, nil); err != nil {
			return err
		}
	default:
		if _, err := os.Stat(argv[0]); err != nil {
			return &StartError{Program: r.spec.Argv[0], Err: errors.Unwrap(err)}
		}
	}
	profile, err := seatbeltProfile{
		system:   append(append([]string(nil), seatbeltSystem...), python.folders...),
		readable: r.places.readable(), writable: r.places.writable(),
	}.text()
	if err != nil {
		return err
	}
	file := filepath.Join(r.home, "profile.sb")
	if err := os.WriteFile(file, []byte(profile), 0o600); err != nil {
		return fmt.Errorf("write the run's profile: %w", err)
	}
	running, err := listProcesses()
	if err != nil {
		return err
	}
	r.orders = seatbeltOrders{
		Argv: seatbeltArgv(file, argv), Env: r.places.environment(r.spec.Env, paths...), Dir: r.places.dir(r.spec.Dir),
		Limits: seatbeltLimits(r.spec.Limits, ofUser(running, os.Getuid())), Nice: r.spec.Limits.Nice,
	}
	return nil
}

func ofUser(all []process, user int) (n int) {
	for _, p := range all {
		if p.user == user {
			n++
		}
	}
	return n
}

// run starts the program and holds it until nothing of it is left.
func (r *seatbeltRun) run(ctx context.Context) (Result, error) {
	fault, err := r.start()
	if err != nil {
		r.sinks.finish()
		return Result{}, err
	}
	f := &family{leader: r.cmd.Process.Pid, user: os.Getuid(), list: listProcesses}
	w := newWarden(f, r.spec, r.places.writable())
	ended := make(chan struct{})
	var waiting sync.WaitGroup
	waiting.Go(func() {
		awaitEnd(r.cmd.Process.Pid)
		close(ended)
	})
	detach, err := r.spec.Steer.Attach(w)
	if err != nil && !errors.Is(err, ErrNotRunning) {
		w.end(KilledCancel) // it was to be paused, and must not run
	}
	w.guard(ctx, ended)
	detach()
	waiting.Wait()
	f.bury()
	_ = r.cmd.Wait()
	r.sinks.finish()
	if text := <-fault; len(text) > 0 {
		return Result{}, fmt.Errorf("the sandbox cannot start: %s", text)
	}
	return r.result(w), nil
}

// start executes this program again as the run's first step. What that has to say of its
// failure comes by the channel, nothing if it succeeded.
func (r *seatbeltRun) start() (fault <-chan []byte, err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	stdout, stderr, err := r.sinks.open(r.spec.Stdout, r.spec.Stderr)
	if err != nil {
		return nil, err
	}
	orders, ourOrders, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	r.sinks.theirs = append(r.sinks.theirs, orders)
	defer func() { _ = ourOrders.Close() }()
	ourFault, theirFault, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	r.sinks.theirs = append(r.sinks.theirs, theirFault)
	r.cmd = &exec.Cmd{
		Path: self, Args: []string{"spare-sandbox"}, Env: []string{firstEnv}, Dir: "/", Stdout: stdout, Stderr: stderr,
		ExtraFiles: []*os.File{orders, theirFault}, SysProcAttr: &syscall.SysProcAttr{Setsid: true},
	}
	if err := r.cmd.Start(); err != nil {
		_ = ourFault.Close()
		return nil, fmt.Errorf("start the sandbox's first step: %w", err)
	}
	r.sinks.handed()
	// An error to write means that the step is gone: how it ended tells.
	_ = json.NewEncoder(ourOrders).Encode(r.orders)
	said := make(chan []byte, 1)
	go func() {
		b, _ := io.ReadAll(io.LimitReader(ourFault, 4<<10))
		_ = ourFault.Close()
		said <- bytes.TrimSpace(b)
	}()
	return said, nil
}

func (r *seatbeltRun) result(w *warden) Result {
	state := r.cmd.ProcessState
	status := state.Sys().(syscall.WaitStatus)
	res := Result{
		ExitCode: state.ExitCode(), Cause: Exited, CPU: state.SystemTime() + state.UserTime(),
		OutputTruncated: r.sinks.out.truncated.Load(),
	}
	if usage, ok := state.SysUsage().(*syscall.Rusage); ok {
		res.PeakMemory = usage.Maxrss // in bytes here
	}
	if status.Signaled() {
		res.Signal, res.Cause = unix.SignalName(status.Signal()), KilledSignal
		switch status.Signal() {
		case syscall.SIGXCPU:
			res.Cause = KilledTime
		case syscall.SIGXFSZ:
			res.Cause = KilledDisk
		}
	}
	w.account(&res)
	return res
}

// awaitEnd waits until a child has ended, and leaves it to be waited for: until then its
// number stays its own.
func awaitEnd(pid int) {
	queue, err := unix.Kqueue()
	if err != nil {
		awaitEndByLooking(pid)
		return
	}
	defer func() { _ = unix.Close(queue) }()
	var change unix.Kevent_t
	unix.SetKevent(&change, pid, unix.EVFILT_PROC, unix.EV_ADD|unix.EV_ONESHOT)
	change.Fflags = unix.NOTE_EXIT
	events := make([]unix.Kevent_t, 1)
	for {
		n, err := unix.Kevent(queue, []unix.Kevent_t{change}, events, nil)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil && err != unix.ESRCH: // ESRCH: it has ended already
			awaitEndByLooking(pid)
			return
		case n > 0 || err != nil:
			return
		}
	}
}

// awaitEndByLooking is for a machine that has no more queues.
func awaitEndByLooking(pid int) {
	for {
		all, err := listProcesses()
		if err == nil {
			running := false
			for _, p := range all {
				running = running || p.pid == pid && !p.zombie
			}
			if !running {
				return
			}
		}
		time.Sleep(wardenGlance)
	}
}

// listProcesses asks ps, which alone may see what all processes use.
func listProcesses() ([]process, error) {
	cmd := exec.Command("/bin/ps", "-A", "-o", "pid=,ppid=,pgid=,uid=,rss=,time=,stat=,lstart=")
	cmd.Env = []string{"LC_ALL=C"}
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("list the processes: %w", err)
	}
	return parseProcesses(string(out))
}
