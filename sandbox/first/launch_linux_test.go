package first

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
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

func orders(t *testing.T, argv ...string) *Orders {
	t.Helper()
	var most syscall.Rlimit // an ordinary user may lower it only
	if err := syscall.Getrlimit(rlimitNproc, &most); err != nil {
		t.Fatal(err)
	}
	return &Orders{Argv: argv, Env: []string{"A=1"}, Files: 64, Processes: int(min(most.Max, 1<<16)) - OwnThreads, Nice: true}
}

// own is what launch sets for the program, as it is for this thread.
func own(t *testing.T) string {
	t.Helper()
	status, err := os.ReadFile("/proc/thread-self/status")
	if err != nil {
		t.Fatal(err)
	}
	limits, err := os.ReadFile("/proc/self/limits")
	if err != nil {
		t.Fatal(err)
	}
	var mine []string
	for line := range strings.Lines(string(status)) {
		switch name, _, _ := strings.Cut(line, ":"); name {
		case "SigBlk", "SigIgn", "SigCgt":
			mine = append(mine, line)
		}
	}
	nice, _, e := syscall.RawSyscall(syscall.SYS_GETPRIORITY, syscall.PRIO_PROCESS, 0, 0)
	policy, _, e2 := syscall.RawSyscall(syscall.SYS_SCHED_GETSCHEDULER, 0, 0, 0)
	if e != 0 || e2 != 0 || len(mine) != 3 {
		t.Fatal(e, e2, mine)
	}
	return fmt.Sprint(mine, string(limits), nice, policy)
}

// Each start shares this process's memory for a while: many of them, from many threads at
// once, must leave it as it is.
func TestLaunch_LeavesThisProcessAsItIs(t *testing.T) {
	for range 8 {
		t.Run("", func(t *testing.T) {
			t.Parallel()
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			before := own(t)
			for i := range 20 {
				code, _, errno := launched(t, "/bin/sh", orders(t, "sh", "-c", `test "$A" = 1 && exit $((40 + $0))`, string(rune('0'+i%10))))
				if code != 40+i%10 || errno != 0 {
					t.Fatalf("exit code %d, %v; want %d", code, errno, 40+i%10)
				}
			}
			if after := own(t); after != before {
				t.Errorf("before:\n%s\nafter:\n%s", before, after)
			}
		})
	}
}

func TestLaunch_SaysWhatFailed(t *testing.T) {
	if _, failed, errno := launched(t, filepath.Join(t.TempDir(), "none"), orders(t, "none")); failed != stepExec || errno != syscall.ENOENT {
		t.Errorf("no such program: %v, %v", failed, errno)
	}
	script := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(script, []byte("no program"), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, failed, errno := launched(t, script, orders(t, "script")); failed != stepExec || errno != syscall.ENOEXEC {
		t.Errorf("not a program: %v, %v", failed, errno)
	}
	o := orders(t, "sh", "-c", ":")
	o.Files = 1 << 40 // more than any kernel lets a process open
	if _, failed, errno := launched(t, "/bin/sh", o); failed != stepLimits || errno != syscall.EPERM {
		t.Errorf("limits beyond the kernel's: %v, %v", failed, errno)
	}
}
