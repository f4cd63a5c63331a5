//go:build darwin || windows

package sandbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

// What is here needs a Mac or a Windows machine with Python: it runs programs behind the
// walls that the other tests only describe.

func TestMain(m *testing.M) {
	Init()
	os.Exit(m.Run())
}

func native(t *testing.T) Runtime {
	t.Helper()
	rt := Default()[0]
	if c := rt.Probe(t.Context()); !c.OK {
		t.Fatalf("%s does not work here: %s", c.Runtime, c.Reason)
	}
	return rt
}

// inside runs a script, and returns what it printed.
func inside(t *testing.T, script string, change func(*Spec)) (Result, string) {
	t.Helper()
	var out bytes.Buffer
	s := Spec{
		Argv: []string{"python3", "-c", "import os, sys, time, socket, subprocess\n" + script}, Stdout: &out, Stderr: &out,
		Limits: Limits{Wall: time.Minute, Output: 1 << 20, Memory: 1 << 30, Processes: 64},
	}
	if change != nil {
		change(&s)
	}
	r, err := native(t).Run(t.Context(), s)
	if err != nil {
		t.Fatalf("the sandbox failed: %v\n%s", err, out.Bytes())
	}
	return r, strings.TrimSpace(out.String())
}

func TestNative_TheContractHolds(t *testing.T) {
	host := t.TempDir()
	for _, dir := range []string{"app", "results"} {
		if err := os.Mkdir(filepath.Join(host, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	script := "import os\nd = open(os.path.join(os.environ['TASK_DIR'], 'data.bin')).read()\n" +
		"open(os.path.join(os.environ['TASK_RESULTS_DIR'], 'out'), 'w').write(d.upper())\nprint(os.path.basename(os.getcwd()))\n"
	for name, text := range map[string]string{"app/main.py": script, "chunk": "data"} {
		if err := os.WriteFile(filepath.Join(host, filepath.FromSlash(name)), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	r, out := inside(t, "", func(s *Spec) {
		s.Argv, s.Dir = []string{"python3", "/spare/app/main.py"}, "/spare/app"
		s.Env = []string{"TASK_DIR=/spare/task", "TASK_RESULTS_DIR=/spare/results"}
		s.Mounts = []Mount{
			{Host: filepath.Join(host, "app"), Inner: "/spare/app"},
			{Host: filepath.Join(host, "chunk"), Inner: "/spare/task/data.bin"},
			{Host: filepath.Join(host, "results"), Inner: "/spare/results", Writable: true},
		}
	})
	if r.Cause != Exited || r.ExitCode != 0 || out != "app" {
		t.Fatalf("%+v\n%s", r, out)
	}
	if b, err := os.ReadFile(filepath.Join(host, "results", "out")); err != nil || string(b) != "DATA" {
		t.Errorf("%q, %v", b, err)
	}
}

func TestNative_WhatIsTheOwnersIsClosed(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	home, err := os.UserHomeDir()
	if err != nil {
		t.Fatal(err)
	}
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	ro := t.TempDir()
	_, out := inside(t, fmt.Sprintf(`
bad = []
def denied(what, f, *a):
    try: f(*a)
    except OSError: return
    bad.append(what)
denied("home folder", os.listdir, %q)
denied("a file", open, %q)
denied("writing beside it", open, %q, "w")
denied("writing what is read-only", open, os.path.join(os.environ["RO"], "x"), "w")
denied("this machine's network", socket.create_connection, ("127.0.0.1", %d), 5)
denied("the Internet", socket.create_connection, ("192.0.2.1", 80), 5)
denied("names", socket.getaddrinfo, "example.com", 80)
denied("listening", lambda: socket.create_server(("0.0.0.0", 0)))
denied("killing its parent", os.kill, os.getppid(), 9)
denied("killing Spare", os.kill, %d, 9)
print("open: " + ", ".join(bad) if bad else "ok")`, home, secret, secret+".new", l.Addr().(*net.TCPAddr).Port, os.Getpid()), func(s *Spec) {
		s.Env, s.Mounts = []string{"RO=/spare/ro"}, []Mount{{Host: ro, Inner: "/spare/ro"}}
	})
	if out != "ok" {
		t.Error(out)
	}
}

func TestNative_LimitsHold(t *testing.T) {
	for name, test := range map[string]struct {
		script string
		limits Limits
		want   Cause
	}{
		"time":      {"while True: time.sleep(60)", Limits{Wall: 2 * time.Second}, KilledTime},
		"processor": {"while True: pass", Limits{Wall: time.Minute, CPU: time.Second}, KilledTime},
		"memory":    {"b = []\nwhile True: b.append(bytearray(8 << 20)); time.sleep(0.01)", Limits{Wall: time.Minute, Memory: 256 << 20}, KilledMemory},
		"disk":      {"f = open(os.path.join(os.environ['HOME'], 'big'), 'wb')\nwhile True: f.write(b'x' * (1 << 20)); f.flush(); time.sleep(0.01)", Limits{Wall: time.Minute, Disk: 8 << 20}, KilledDisk},
	} {
		t.Run(name, func(t *testing.T) {
			if r, out := inside(t, test.script, func(s *Spec) { s.Limits = test.limits }); r.Cause != test.want {
				t.Errorf("%+v, want %s\n%s", r, test.want, out)
			}
		})
	}
	r, out := inside(t, "while True: print('x' * 1000)", func(s *Spec) { s.Limits = Limits{Wall: 2 * time.Second, Output: 4 << 10} })
	if len(out) > 4<<10 || !r.OutputTruncated {
		t.Errorf("%d bytes came out, %+v", len(out), r)
	}
	r, out = inside(t, `
n = 0
try:
    for _ in range(400):
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]); n += 1
except OSError: pass
print(n)`, func(s *Spec) { s.Limits = Limits{Wall: time.Minute, Processes: 20} })
	if n := 0; func() bool { _, err := fmt.Sscan(out, &n); return err != nil || n > 40 }() {
		t.Errorf("it began %s processes, %+v", out, r)
	}
}

func TestNative_PausesAndEnds(t *testing.T) {
	host := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	steer := &Steer{}
	done := make(chan Result, 1)
	rt := native(t)
	go func() {
		r, err := rt.Run(ctx, Spec{
			Argv: []string{"python3", "-c", "import os\nn = 0\nwhile True:\n    n += 1\n    open(os.path.join(os.environ['OUT'], 'n'), 'w').write(str(n))"},
			Env:  []string{"OUT=/spare/out"}, Mounts: []Mount{{Host: host, Inner: "/spare/out", Writable: true}}, Steer: steer,
		})
		if err != nil {
			t.Error(err)
		}
		done <- r
	}()
	count := func() string { b, _ := os.ReadFile(filepath.Join(host, "n")); return string(b) }
	until := func(what string, ok func() bool) {
		t.Helper()
		for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal(what + ": not within 30 s")
			}
		}
	}
	until("it starts", func() bool { return count() != "" })
	if err := steer.Pause(); err != nil {
		t.Fatal(err)
	}
	before := count()
	memory, err := steer.Memory()
	if err != nil || memory <= 0 {
		t.Errorf("paused it uses %d bytes, %v", memory, err)
	}
	if count() != before {
		t.Error("it went on while paused")
	}
	if err := steer.Resume(); err != nil {
		t.Fatal(err)
	}
	until("it goes on", func() bool { return count() != before })
	cancel()
	if r := <-done; r.Cause != KilledCancel {
		t.Errorf("%+v", r)
	}
	if _, err := steer.Memory(); !errors.Is(err, ErrNotRunning) {
		t.Error(err)
	}
}

func TestNative_NothingIsLeft(t *testing.T) {
	host := t.TempDir()
	_, out := inside(t, `
code = "import os, time\nn = 0\nwhile True:\n    n += 1\n    open(os.path.join(os.environ['OUT'], 'n'), 'w').write(str(n)); time.sleep(0.01)"
subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
while not os.path.exists(os.path.join(os.environ["OUT"], "n")): time.sleep(0.01)
time.sleep(1)
print("ok")`, func(s *Spec) {
		s.Env, s.Mounts = []string{"OUT=/spare/out"}, []Mount{{Host: host, Inner: "/spare/out", Writable: true}}
	})
	if out != "ok" {
		t.Fatal(out)
	}
	if err := os.Remove(filepath.Join(host, "n")); err != nil {
		t.Fatal(err)
	}
	time.Sleep(200 * time.Millisecond) // as long as it would take a daemon twenty times
	if _, err := os.Stat(filepath.Join(host, "n")); err == nil {
		t.Error("a daemon outlives its run")
	}
	left, err := filepath.Glob(filepath.Join(os.TempDir(), "spare-run-*"))
	if err != nil || len(left) > 0 {
		t.Errorf("folders are left on %s: %v %v", runtime.GOOS, left, err)
	}
}
