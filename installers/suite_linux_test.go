package installers_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/sandbox"
	"github.com/spare-compute/spare/sandbox/wasm"
)

// What runs behind a unit's walls is this test's own program, executed again: first to put
// the walls up around itself, then in the node's place.
const (
	imposeEnv = "SPARE_TEST_IMPOSE" // a wall's orders, as JSON
	suiteEnv  = "SPARE_TEST_SUITE"  // the state folder
	wallsEnv  = "SPARE_TEST_WALLS"  // to try the unit's own walls too
)

// orders say what to put up around the program before it goes on as the suite.
type orders struct {
	Unit  string // the unit's text; "" is none: only another user
	State string
	User  int
	Argv  []string
	Env   []string
}

func TestMain(m *testing.M) {
	sandbox.Init()
	wasm.Init()
	if text := os.Getenv(imposeEnv); text != "" {
		fmt.Fprintln(os.Stderr, "put up the unit's walls:", goBehind(text))
		os.Exit(1)
	}
	if state := os.Getenv(suiteEnv); state != "" {
		f := examine(state)
		if err := json.NewEncoder(os.Stdout).Encode(f); err != nil {
			panic(err)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// goBehind puts the walls up and becomes the suite. It returns only if that fails.
func goBehind(text string) error {
	var o orders
	if err := json.Unmarshal([]byte(text), &o); err != nil {
		return err
	}
	runtime.LockOSThread() // rights and filters belong to a thread, and this one becomes the program
	var err error
	if o.Unit == "" {
		err = become(o.User)
	} else {
		err = parseUnit(o.Unit).impose(o.State, o.User)
	}
	if err != nil {
		return err
	}
	if err := os.Chdir("/"); err != nil {
		return err
	}
	return syscall.Exec(o.Argv[0], o.Argv, o.Env)
}

// findings are what the suite saw.
type findings struct {
	Linux, Wasm spare.Capability
	Checks      map[string]string // by name: "ok", or what was wrong
	Walls       map[string]string // of the unit itself, likewise
}

// a bench is where checks are made.
type bench struct {
	sandbox.Runtime
	state string
}

func examine(state string) findings {
	ctx, stop := context.WithTimeout(context.Background(), 3*time.Minute)
	defer stop()
	rt, found := sandbox.Choose(ctx)
	f := findings{Linux: found[0], Checks: map[string]string{}, Walls: map[string]string{}}
	if rt == nil {
		return f
	}
	f.Wasm = wasm.New(wasm.Config{Cache: filepath.Join(state, "wasm"), Inside: rt}).Probe(ctx)
	said := func(err error) string {
		if err != nil {
			return err.Error()
		}
		return "ok"
	}
	for name, check := range checks {
		f.Checks[name] = said(check(ctx, bench{rt, state}))
	}
	if os.Getenv(wallsEnv) == "" {
		return f
	}
	for name, stands := range unitWalls {
		f.Walls[name] = said(stands())
	}
	return f
}

// run runs a program inside, and wants it to end as that.
func (b bench) run(ctx context.Context, s sandbox.Spec, cause sandbox.Cause, says string) error {
	var out bytes.Buffer
	s.Stdout, s.Stderr = &out, &out
	if s.Limits.Wall == 0 {
		s.Limits.Wall = time.Minute
	}
	s.Limits.Output = 1 << 16
	r, err := b.Run(ctx, s)
	if err != nil {
		return err
	}
	if r.Cause != cause || cause == sandbox.Exited && r.ExitCode != 0 || strings.TrimSpace(out.String()) != says {
		return fmt.Errorf("it ended as %+v, want %s and %q, and said:\n%s", r, cause, says, out.String())
	}
	return nil
}

func (b bench) python(ctx context.Context, script string, l sandbox.Limits, cause sandbox.Cause, says string) error {
	return b.run(ctx, sandbox.Spec{Argv: []string{"python3", "-c", script}, Limits: l}, cause, says)
}

// counters are what some programs try at their start, and no unit allows.
const counters = "performance counters are refused, and end nobody"

// checks are what a node needs of the sandbox.
var checks = map[string]func(context.Context, bench) error{
	"Python": func(ctx context.Context, b bench) error {
		return b.python(ctx, `
import multiprocessing, subprocess, threading, asyncio, tempfile, os, sqlite3
with multiprocessing.Pool(2) as p: assert p.map(abs, [-1, -2]) == [1, 2]
assert subprocess.run(["sh", "-c", "ls -R /etc | sort >/dev/null; kill -TERM $$"]).returncode == -15
t = threading.Thread(target=print, args=("ok",)); t.start(); t.join()
asyncio.run(asyncio.sleep(0.01))
d = tempfile.mkdtemp(); f = open(d + "/a", "w+"); f.write("x"); f.flush(); os.fsync(f.fileno()); os.chmod(d + "/a", 0o750)
c = sqlite3.connect(d + "/db"); c.execute("create table t(x)"); c.commit()
`, sandbox.Limits{Memory: 1 << 30, Processes: 64}, sandbox.Exited, "ok")
	},
	"ffmpeg": func(ctx context.Context, b bench) error {
		argv := strings.Fields("ffmpeg -nostdin -v error -f lavfi -i testsrc=d=0.2:s=160x120 -c:v libx264 -y /tmp/x.mp4")
		return b.run(ctx, sandbox.Spec{Argv: argv}, sandbox.Exited, "")
	},
	"files": func(ctx context.Context, b bench) error {
		dirs := map[string]string{}
		for _, name := range []string{"in", "out"} {
			dirs[name] = filepath.Join(b.state, "files", name)
			if err := os.MkdirAll(dirs[name], 0o700); err != nil {
				return err
			}
		}
		if err := os.WriteFile(filepath.Join(dirs["in"], "data"), []byte("42"), 0o600); err != nil {
			return err
		}
		err := b.run(ctx, sandbox.Spec{
			Argv: []string{"python3", "-c", `
open("/spare/out/result", "w").write(open("/spare/in/data").read())
try: open("/spare/in/data", "w")
except OSError: print("ok")`},
			Mounts: []sandbox.Mount{{Host: dirs["in"], Inner: "/spare/in"}, {Host: dirs["out"], Inner: "/spare/out", Writable: true}},
		}, sandbox.Exited, "ok")
		text, readErr := os.ReadFile(filepath.Join(dirs["out"], "result"))
		if err == nil && string(text) != "42" {
			err = fmt.Errorf("the result holds %q (%w)", text, readErr)
		}
		return err
	},
	"an image": func(ctx context.Context, b bench) error {
		dir := filepath.Join(b.state, "image")
		text, err := os.ReadFile("/bin/busybox")
		err = errors.Join(err, os.MkdirAll(filepath.Join(dir, "bin"), 0o755))
		if err = errors.Join(err, os.WriteFile(filepath.Join(dir, "bin/busybox"), text, 0o755)); err != nil {
			return err
		}
		return b.run(ctx, sandbox.Spec{Image: &sandbox.Image{Folder: dir}, Argv: []string{"/bin/busybox", "sh", "-c", "test ! -e /usr && echo ok"}}, sandbox.Exited, "ok")
	},
	"memory limit": func(ctx context.Context, b bench) error {
		// It keeps what it got: a busy machine may count it later than it is refused more.
		return b.python(ctx, `
import time
x = []
try:
    while True: x.append(b"x" * (1 << 20))
except MemoryError: time.sleep(60)`, sandbox.Limits{Memory: 128 << 20}, sandbox.KilledMemory, "")
	},
	"time limit": func(ctx context.Context, b bench) error {
		return b.python(ctx, "while True: pass", sandbox.Limits{Wall: 300 * time.Millisecond}, sandbox.KilledTime, "")
	},
	"process limit": func(ctx context.Context, b bench) error {
		return b.python(ctx, `
import os, time
n = 0
try:
    while n < 100:
        if os.fork() == 0: time.sleep(60)
        n += 1
except OSError: print("ok" if n > 5 else n, flush=True)
os._exit(0)`, sandbox.Limits{Processes: 16}, sandbox.Exited, "ok")
	},
	counters: func(ctx context.Context, b bench) error {
		script := fmt.Sprintf(`import ctypes; print("ok" if ctypes.CDLL(None).syscall(%d, 0, 0, -1, -1, 0) == -1 else "made")`, unix.SYS_PERF_EVENT_OPEN)
		return b.python(ctx, script, sandbox.Limits{}, sandbox.Exited, "ok")
	},
	"pause and the last word": func(ctx context.Context, b bench) error {
		dir := filepath.Join(b.state, "checkpoint")
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		s := new(sandbox.Steer)
		steered := make(chan error, 1)
		go func() {
			defer cancel()
			steered <- steer(ctx, s, filepath.Join(dir, "ready"))
		}()
		err := b.run(ctx, sandbox.Spec{
			Argv: []string{"python3", "-c", `
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *a: (print("ok"), sys.exit(0)))
open("/spare/out/ready", "w")
while True: time.sleep(0.01)`},
			Mounts: []sandbox.Mount{{Host: dir, Inner: "/spare/out", Writable: true}}, Steer: s, Grace: 20 * time.Second,
		}, sandbox.KilledCancel, "ok")
		return errors.Join(err, <-steered)
	},
}

// steer pauses and resumes what says that it is ready.
func steer(ctx context.Context, s *sandbox.Steer, ready string) error {
	for {
		if _, err := os.Stat(ready); err == nil {
			break
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the program was never ready: %w", ctx.Err())
		case <-time.After(5 * time.Millisecond):
		}
	}
	if err := s.Pause(); err != nil {
		return err
	}
	if n, err := s.Memory(); err != nil || n == 0 {
		return fmt.Errorf("paused, it uses %d bytes, %w", n, err)
	}
	return s.Resume()
}

// unitWalls try what a unit forbids the node itself. Without them the checks above would
// show nothing.
var unitWalls = map[string]func() error{
	"ProtectHome":           func() error { return hidden("/root") },
	"ProtectKernelModules":  func() error { return hidden("/usr/lib/modules") },
	"PrivateTmp":            func() error { return empty("/tmp") },
	"PrivateDevices":        func() error { return fails(os.Stat("/dev/kmsg")) },
	"ProtectSystem":         func() error { return readOnlyHere("/usr") },
	"NoNewPrivileges":       func() error { return status("NoNewPrivs", "1") },
	"CapabilityBoundingSet": func() error { return status("CapBnd", "0000000000000000") },
	"SystemCallFilter":      func() error { return wants(syscall.EPERM)(call(unix.SYS_PERF_EVENT_OPEN)) },
	"RestrictAddressFamilies": func() error {
		return wants(syscall.EAFNOSUPPORT)(call(syscall.SYS_SOCKET, syscall.AF_PACKET, syscall.SOCK_RAW))
	},
	"RestrictSUIDSGID": func() error { return wants(syscall.EPERM)(syscall.Chmod("/proc/self/none", 0o4755)) },
	"LockPersonality":  func() error { return wants(syscall.EPERM)(call(syscall.SYS_PERSONALITY, 0x40000)) },
	"RestrictRealtime": func() error { return wants(syscall.EPERM)(call(syscall.SYS_SCHED_SETSCHEDULER, 1<<30, 1)) }, // of no process
}

func fails[T any](_ T, err error) error {
	if err == nil {
		return errors.New("it can")
	}
	return nil
}

// hidden wants a folder that nobody enters, if there is one.
func hidden(name string) error {
	info, err := os.Stat(name)
	if err == nil && info.Mode().Perm() != 0 {
		return fmt.Errorf("its mode is %v", info.Mode())
	}
	return nil
}

func readOnlyHere(name string) error {
	var st syscall.Statfs_t
	if err := syscall.Statfs(name, &st); err != nil || st.Flags&1 == 0 {
		return fmt.Errorf("it is not mounted read-only: %w", err)
	}
	return nil
}

func empty(dir string) error {
	list, err := os.ReadDir(dir)
	if err == nil && len(list) > 0 {
		return fmt.Errorf("it sees %d files", len(list))
	}
	return nil
}

func wants(want error) func(error) error {
	return func(err error) error {
		if !errors.Is(err, want) {
			return fmt.Errorf("got %w, want %w", err, want)
		}
		return nil
	}
}

func call(number uintptr, args ...uintptr) error {
	args = append(args, 0, 0, 0)
	if _, _, e := syscall.RawSyscall(number, args[0], args[1], args[2]); e != 0 {
		return e
	}
	return nil
}

func status(name, want string) error {
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(text)) {
		if key, value, _ := strings.Cut(line, ":"); key == name && strings.TrimSpace(value) == want {
			return nil
		}
	}
	return fmt.Errorf("%s is not %s", name, want)
}
