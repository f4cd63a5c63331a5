package clone

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

const inner = 1000 // the user and group that the process sees itself as

// own are the attributes of a process in namespaces of its own.
func own() *syscall.SysProcAttr {
	a := &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWPID | unix.CLONE_NEWNS | unix.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: inner, HostID: os.Geteuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: inner, HostID: os.Getegid(), Size: 1}},
		AmbientCaps: []uintptr{unix.CAP_SYS_ADMIN, unix.CAP_SYS_RESOURCE},
		Pdeathsig:   syscall.SIGKILL,
		Setsid:      true,
	}
	if os.Geteuid() == 0 {
		a.UidMappings[0].HostID, a.GidMappings[0].HostID = 60999, 60999
		a.GidMappingsEnableSetgroups = true
		a.Credential = &syscall.Credential{Uid: inner, Gid: inner}
	}
	return a
}

// said starts a program and returns what it prints.
func said(t testing.TB, sys *syscall.SysProcAttr, argv ...string) string {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	pid, err := Start(argv[0], argv, &syscall.ProcAttr{Dir: "/", Env: []string{"A=1"}, Files: []uintptr{null.Fd(), w.Fd(), w.Fd()}, Sys: sys})
	_ = w.Close()
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	var ws syscall.WaitStatus
	if _, err := syscall.Wait4(pid, &ws, 0, nil); err != nil || ws.ExitStatus() != 0 {
		t.Fatalf("%v, %v: %s", err, ws, text)
	}
	return string(text)
}

const show = `echo $$ $(id -u) $(id -g) $(pwd) $A $(grep -E '^(CapAmb|CapEff|SigBlk|Groups|NSsid|NSpid):' /proc/self/status | tr -s ' \t\n' '  ,'); ls /proc/$$/fd | tr '\n' ' '`

func TestStart_IsWhatForkExecIs(t *testing.T) {
	forked := func(sys *syscall.SysProcAttr) string {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		pid, err := syscall.ForkExec("/bin/sh", []string{"/bin/sh", "-c", show}, &syscall.ProcAttr{Dir: "/", Env: []string{"A=1"}, Files: []uintptr{0, w.Fd(), w.Fd()}, Sys: sys})
		_ = w.Close()
		if err != nil {
			t.Fatal(err)
		}
		text, _ := io.ReadAll(r)
		_, _ = syscall.Wait4(pid, nil, 0, nil)
		return string(text)
	}
	want, got := forked(own()), said(t, own(), "/bin/sh", "-c", show)
	if !strings.HasPrefix(got, "1 1000 1000 / 1 ") {
		t.Errorf("it is not in namespaces of its own: %s", got)
	}
	if strip(got) != strip(want) {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// strip takes out what differs from one process to the next: numbers of the host.
func strip(s string) string {
	var keep []string
	for _, part := range strings.Split(s, ",") {
		if !strings.HasPrefix(part, "NS") && !strings.HasPrefix(part, "SigBlk") {
			keep = append(keep, part)
		}
	}
	return strings.Join(keep, ",")
}

func TestStart_WithoutClone3(t *testing.T) {
	withoutClone3 = true
	t.Cleanup(func() { withoutClone3 = false })
	if got := said(t, own(), "/bin/sh", "-c", show); !strings.HasPrefix(got, "1 1000 1000 / 1 ") {
		t.Error(got)
	}
}

func TestStart_FilesThatStandInOneAnothersWay(t *testing.T) {
	var files [8]*os.File
	var fds []uintptr
	for i := range files {
		f, err := os.CreateTemp(t.TempDir(), "")
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		fmt.Fprint(f, i)
		_, _ = f.Seek(0, io.SeekStart)
		files[i] = f
		fds = append([]uintptr{f.Fd()}, fds...) // high ones to low numbers and the other way
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	fds[1] = w.Fd()
	argv := []string{"/bin/sh", "-c", "for i in 0 2 3 4 5 6 7; do eval \"cat <&$i\"; done"}
	pid, err := Start(argv[0], argv, &syscall.ProcAttr{Env: []string{"PATH=/usr/bin:/bin"}, Files: fds, Sys: own()})
	_ = w.Close()
	if err != nil {
		t.Fatal(err)
	}
	text, _ := io.ReadAll(r)
	_, _ = syscall.Wait4(pid, nil, 0, nil)
	if string(text) != "7543210" {
		t.Errorf("%q", text)
	}
}

func TestStart_SaysWhatFailedAndLeavesNothing(t *testing.T) {
	noMap := own()
	noMap.UidMappings[0].Size = 1 << 20
	noMap.UidMappings[0].ContainerID = -1
	noDir := &syscall.ProcAttr{Dir: "/nowhere", Sys: own()}
	noFile := &syscall.ProcAttr{Files: []uintptr{9999}, Sys: own()}
	for name, c := range map[string]struct {
		program string
		attr    *syscall.ProcAttr
		want    string
		is      error
	}{
		"no program": {"/nowhere/program", &syscall.ProcAttr{Sys: own()}, "execute", syscall.ENOENT},
		"no folder":  {"/bin/sh", noDir, "enter the folder", syscall.ENOENT},
		"no file":    {"/bin/sh", noFile, "take the files", syscall.EBADF},
		"no mapping": {"/bin/sh", &syscall.ProcAttr{Sys: noMap}, "uid_map", syscall.EINVAL},
		"zero byte":  {"/bin/\x00sh", &syscall.ProcAttr{Sys: own()}, "", syscall.EINVAL},
	} {
		pid, err := Start(c.program, []string{"x"}, c.attr)
		if pid != 0 || !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %d, %v", name, pid, err)
		}
	}
	if pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil); err != syscall.ECHILD {
		t.Errorf("a process is left: %d, %v", pid, err)
	}
}

// The processes share this one's memory while its goroutines run, move and collect.
func TestStart_ManyAtOnceBesideACollector(t *testing.T) {
	stop := make(chan struct{})
	var busy, all sync.WaitGroup
	busy.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				_ = make([]byte, 1<<20)
				runtime.GC()
			}
		}
	})
	for i := range 8 {
		all.Go(func() {
			for j := range 20 {
				want := fmt.Sprint(i, "-", j)
				if got := said(t, own(), "/bin/sh", "-c", "echo "+want); got != want+"\n" {
					t.Errorf("%q, not %q", got, want)
				}
			}
		})
	}
	all.Wait()
	close(stop)
	busy.Wait()
}

func TestStart_LeavesThisProcessAsItWas(t *testing.T) {
	state := func() string {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		text, err := os.ReadFile("/proc/thread-self/status")
		if err != nil {
			t.Fatal(err)
		}
		dumpable, _ := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0)
		s := fmt.Sprintln("dumpable", dumpable)
		for line := range strings.Lines(string(text)) {
			switch name, _, _ := strings.Cut(line, ":"); name {
			case "Uid", "Gid", "Groups", "SigBlk", "SigIgn", "SigCgt", "CapInh", "CapPrm", "CapEff", "CapAmb", "FDSize":
				s += line
			}
		}
		return s
	}
	before := state()
	for range 10 {
		said(t, own(), "/bin/true")
	}
	if after := state(); after != before {
		t.Errorf("before\n%safter\n%s", before, after)
	}
}
