package first

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// launched runs a program as a sandbox's first process does, and returns its exit code.
func launched(t *testing.T, program string, o *Orders) (code int, failed step, errno syscall.Errno) {
	t.Helper()
	pid, failed, errno := launch(program, o, -1)
	if errno != 0 {
		return -1, failed, errno
	}
	var ws syscall.WaitStatus
	if _, err := syscall.Wait4(pid, &ws, 0, nil); err != nil {
		t.Fatal(err)
	}
	return ws.ExitStatus(), 0, 0
}

func orders(argv ...string) *Orders {
	return &Orders{Argv: argv, Env: []string{"A=1"}, Files: 64, Processes: 1 << 16, Nice: true}
}

// Each start shares this process's memory for a while: many of them, from many threads at
// once, must leave it as it is.
func TestLaunch_LeavesThisProcessAsItIs(t *testing.T) {
	for range 8 {
		t.Run("", func(t *testing.T) {
			t.Parallel()
			for i := range 20 {
				code, _, errno := launched(t, "/bin/sh", orders("sh", "-c", `test "$A" = 1 && exit $((40 + $0))`, string(rune('0'+i%10))))
				if code != 40+i%10 || errno != 0 {
					t.Fatalf("exit code %d, %v; want %d", code, errno, 40+i%10)
				}
			}
		})
	}
}

func TestLaunch_SaysWhatFailed(t *testing.T) {
	if _, failed, errno := launched(t, filepath.Join(t.TempDir(), "none"), orders("none")); failed != stepExec || errno != syscall.ENOENT {
		t.Errorf("no such program: %v, %v", failed, errno)
	}
	script := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(script, []byte("no program"), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, failed, errno := launched(t, script, orders("script")); failed != stepExec || errno != syscall.ENOEXEC {
		t.Errorf("not a program: %v, %v", failed, errno)
	}
	o := orders("sh", "-c", ":")
	o.Files = 1 << 40 // more than any kernel lets a process open
	if _, failed, errno := launched(t, "/bin/sh", o); failed != stepLimits || errno != syscall.EPERM {
		t.Errorf("limits beyond the kernel's: %v, %v", failed, errno)
	}
}
