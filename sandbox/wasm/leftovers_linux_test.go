package wasm

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/spare-compute/spare/sandbox"
)

// eventually waits for what other processes do.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("not within a minute: " + what)
		}
	}
}

func TestWasm_PausesWhileItCompiles(t *testing.T) {
	eachInside(t, func(t *testing.T, inside sandbox.Runtime) {
		r, _ := counting(t, t.TempDir(), inside)
		var steer sandbox.Steer
		if err := steer.Pause(); err != nil {
			t.Fatal(err)
		}
		s := sandbox.Spec{Argv: []string{"hello.wasm"}, Steer: &steer, Limits: sandbox.Limits{Wall: time.Minute, Memory: 512 << 20}}
		pause := 300 * time.Millisecond
		if os.Getenv("SPARE_LONG") != "" { // more time passes in the pause than the run may take
			s.Limits.Wall = 20 * time.Second
			pause = s.Limits.Wall + time.Second
		}
		p := helloProgram()
		p.argv = s.Argv
		type end struct {
			res sandbox.Result
			err error
		}
		done := make(chan end, 1)
		before := children(t, os.Getpid())
		go func() {
			res, err := r.run(t.Context(), s, p)
			done <- end{res, err}
		}()
		if inside == nil {
			eventually(t, "the compiling helper is stopped", func() bool {
				now := children(t, os.Getpid())
				if len(now) != len(before)+1 {
					return false
				}
				still, err := stopped(now[len(now)-1])
				return err == nil && still
			})
		}
		time.Sleep(pause)
		for _, e := range entries(t, r.cache) {
			if !strings.HasPrefix(filepath.Base(e), newPrefix) {
				t.Errorf("it compiled while it was paused: %s", e)
			}
		}
		if err := steer.Resume(); err != nil {
			t.Fatal(err)
		}
		got := <-done
		if got.err != nil || got.res.Cause != sandbox.Exited || got.res.Wall > s.Limits.Wall {
			t.Fatalf("got %+v and %v", got.res, got.err)
		}
	})
}

// A helper alone has many threads, and Linux knows only threads.
func TestWasm_IsNiceInAllItsThreads(t *testing.T) {
	r := alone(t)
	said := make(lines, 1)
	var steer sandbox.Steer
	s := newGrounds(t).spec(t, "sleep")
	s.Limits.Nice, s.Stdout, s.Steer = true, said, &steer
	done := make(chan struct{})
	before := children(t, os.Getpid())
	go func() { defer close(done); _, _ = r.Run(t.Context(), s) }()
	<-said
	now := children(t, os.Getpid())
	if len(now) != len(before)+1 {
		t.Fatalf("it has the children %v, before %v", now, before)
	}
	helper := now[len(now)-1]
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", helper))
	if err != nil || len(tasks) < 3 {
		t.Fatalf("it has the threads %v (%v)", tasks, err)
	}
	for _, name := range tasks {
		text, err := os.ReadFile(name)
		_, rest, _ := strings.Cut(string(text), ") ")
		if f := strings.Fields(rest); err != nil || f[16] != "19" {
			t.Errorf("%s: its nice value is %s (%v)", name, f[16], err)
		}
	}
	_ = syscall.Kill(helper, syscall.SIGKILL)
	<-done
}

func TestWasm_ManyRunsLeaveNothing(t *testing.T) {
	eachInside(t, func(t *testing.T, inside sandbox.Runtime) {
		r, _ := counting(t, t.TempDir(), inside)
		sayHello(t, r) // what stays open, is open by now
		sandbox.Settle()
		files, helpers := openFiles(t), children(t, os.Getpid())
		for range 30 {
			sayHello(t, r)
		}
		for range 2 {
			var all sync.WaitGroup
			errs := make([]error, 8)
			for i := range errs {
				all.Go(func() { errs[i] = r.tryModule(t.Context()) })
			}
			all.Wait()
			if err := errors.Join(errs...); err != nil {
				t.Fatal(err)
			}
		}
		sandbox.Settle()
		if now := children(t, os.Getpid()); len(now) > len(helpers) {
			t.Errorf("processes: %v, before %v", now, helpers)
		}
		if now := openFiles(t); len(now) > len(files) {
			t.Errorf("descriptors: %v, before %v", now, files)
		}
		if list := entries(t, r.cache); len(list) != 1 || strings.HasPrefix(filepath.Base(list[0]), newPrefix) {
			t.Errorf("the cache holds %v", list)
		}
		if list, err := os.ReadDir(filepath.Join(r.cache, "runs")); err != nil || len(list) != 0 {
			t.Errorf("of runs there is %v (%v)", list, err)
		}
	})
}

// openFiles says what this process's descriptors are.
func openFiles(t *testing.T) (all []string) {
	t.Helper()
	list, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range list {
		if to, err := os.Readlink(name); err == nil {
			all = append(all, to)
		}
	}
	return all
}

// What compiles a stranger's module may have fallen to it.
func TestReport_ThatIsNoPlainFileSaysNothing(t *testing.T) {
	dir := t.TempDir()
	good := filepath.Join(dir, "good")
	if err := (report{Stage: ended}).write(good); err != nil {
		t.Fatal(err)
	}
	if readReport(good).Stage != ended {
		t.Fatal("a report is not read")
	}
	for what, plant := range map[string]func(name string) error{
		"a pipe":   func(name string) error { return syscall.Mkfifo(name, 0o600) },
		"a link":   func(name string) error { return os.Symlink(good, name) },
		"a near":   func(name string) error { return os.Symlink("good", name) },
		"a folder": func(name string) error { return os.Mkdir(name, 0o700) },
	} {
		name := filepath.Join(dir, what)
		if err := plant(name); err != nil {
			t.Fatal(err)
		}
		said := make(chan report, 1)
		go func() { said <- readReport(name) }()
		select {
		case rep := <-said:
			if rep != (report{}) {
				t.Errorf("%s: it says %+v", what, rep)
			}
		case <-time.After(10 * time.Second):
			t.Errorf("%s: it is waited for", what)
		}
	}
}
