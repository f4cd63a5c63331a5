package sandbox

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The whole suite runs twice where it can: as root, and executed again by
// TestAsOrdinaryUser as a user who owns nothing.
const (
	ordinaryUser = 12345
	asUserEnv    = "SPARE_TEST_AS_USER"
	orphanEnv    = "SPARE_TEST_ORPHAN"
)

func TestMain(m *testing.M) {
	Init()
	if dir := os.Getenv(orphanEnv); dir != "" {
		runForever(dir)
	}
	code := m.Run()
	Settle()
	os.Exit(code)
}

func TestAsOrdinaryUser(t *testing.T) {
	if os.Getuid() != 0 {
		return // this is it
	}
	dir, err := os.MkdirTemp("", "spare-user-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	program := filepath.Join(dir, "suite")
	copyFile(t, "/proc/self/exe", program, 0o755)
	home := filepath.Join(dir, "home")
	for _, err := range []error{os.Chmod(dir, 0o755), os.Mkdir(home, 0o700), os.Chown(home, ordinaryUser, ordinaryUser)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), program, "-test.timeout=5m")
	cmd.Dir = home
	cmd.Env = append(os.Environ(), "TMPDIR="+home, "HOME="+home, asUserEnv+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: ordinaryUser, Gid: ordinaryUser}}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("as an ordinary user: %v\n%s", err, out)
	}
	if !bytes.Contains(out, []byte("PASS")) {
		t.Fatalf("as an ordinary user nothing ran:\n%s", out)
	}
}

func copyFile(t testing.TB, from, to string, mode os.FileMode) {
	t.Helper()
	in, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.Copy(out, in)
	for _, err := range []error{err, out.Chmod(mode), out.Close()} {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// ended is what a run gave back.
type ended struct {
	Result
	out string
}

// python runs a script inside and fails the test if the sandbox does.
func python(t testing.TB, script string, change func(*Spec)) ended {
	t.Helper()
	return pythonWithout(t, nil, script, change)
}

// pythonWithout does so with some walls left out.
func pythonWithout(t testing.TB, walls []string, script string, change func(*Spec)) ended {
	t.Helper()
	var out bytes.Buffer
	s := Spec{
		Argv: []string{"python3", "-c", "import os, sys, errno, ctypes, socket, time\n" + script}, Stdout: &out, Stderr: &out,
		Limits: Limits{Wall: 30 * time.Second, Output: 1 << 20, Processes: 64, Memory: 1 << 30},
	}
	if change != nil {
		change(&s)
	}
	r, err := linux{without: walls}.Run(t.Context(), s)
	if err != nil {
		t.Fatalf("the sandbox failed: %v\n%s", err, out.Bytes())
	}
	return ended{r, out.String()}
}

// wantOK fails the test unless the program said exactly "ok".
func (e ended) wantOK(t testing.TB) {
	t.Helper()
	if e.Cause != Exited || e.ExitCode != 0 || strings.TrimSpace(e.out) != "ok" {
		t.Fatalf("inside: %+v\n%s", e.Result, e.out)
	}
}

// signalFirst is a script: a signal to the first process has no effect, if it is not
// refused.
const signalFirst = `
try: os.kill(1, 15)
except PermissionError: pass
`

// denied is a Python helper: it runs f and complains unless that fails with an OSError.
const denied = `
bad = []
def denied(what, f, *args):
    try:
        r = f(*args)
    except OSError:
        return
    bad.append("%s: %r" % (what, r))
def finish():
    print("\n".join(bad) if bad else "ok")
libc = ctypes.CDLL(None, use_errno=True)
def call(name, *args):
    r = getattr(libc, name)(*args)
    if r < 0:
        raise OSError(ctypes.get_errno(), name)
    return r
`

// eventually polls until ok, without a fixed wait.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within 20 s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// lockHolder is a script that locks /spare/rw/lock for as long as it lives, and says so.
const lockHolder = `
import fcntl
f = open("/spare/rw/lock", "w")
fcntl.flock(f, fcntl.LOCK_EX)
`

// locked reports whether anybody holds the lock that lockHolder takes.
func locked(t testing.TB, dir string) bool {
	t.Helper()
	f, err := os.Open(filepath.Join(dir, "lock"))
	if err != nil {
		return false
	}
	defer f.Close()
	return syscall.Flock(int(f.Fd()), syscall.LOCK_SH|syscall.LOCK_NB) != nil
}

// runForever is the life of a parent that will be killed.
func runForever(dir string) {
	_, err := linux{}.Run(context.Background(), Spec{
		Argv:   []string{"python3", "-c", lockHolder + "import time\nwhile True: time.sleep(60)"},
		Mounts: []Mount{{Host: dir, Inner: "/spare/rw", Writable: true}},
	})
	fmt.Println(err)
	os.Exit(1)
}
