package sandbox_test

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// traces are what attacks could leave on the machine: children and descriptors of this
// process, mounts that have to do with it, control groups of runs, files in its folder. A
// namespace lives no longer than these.
type traces struct {
	counts [4]int // of children, descriptors, mounts and folders
	groups []string
}

func (f *field) traces(t *testing.T) traces {
	t.Helper()
	var n traces
	tasks, _ := filepath.Glob("/proc/self/task/*/children")
	for _, file := range tasks {
		text, _ := os.ReadFile(file) // a thread may have ended
		n.counts[0] += len(strings.Fields(string(text)))
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	n.counts[2] = strings.Count(string(mounts), f.dir)
	for i, pattern := range map[int]string{1: "/proc/self/fd/*", 3: filepath.Join(f.dir, "run-*")} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		n.counts[i] = len(found)
	}
	_ = filepath.WalkDir("/sys/fs/cgroup", func(name string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() && strings.HasPrefix(d.Name(), "spare-") {
			n.groups = append(n.groups, name)
		}
		return nil
	})
	return n
}

// orphan reports whether a control group is nobody's: its owner, another test that was
// killed, died with its lock, and whoever starts next removes it. This process lives.
func orphan(group string) bool {
	dir, err := os.Open(group)
	if err != nil {
		return true
	}
	defer dir.Close()
	return syscall.Flock(int(dir.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil
}

// left waits for what goes by itself in a moment, and says what stays. Control groups may
// be those of other tests, which run at the same time: each of them goes with its run.
func (f *field) left(t *testing.T, before traces) string {
	t.Helper()
	after := f.traces(t)
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		now := f.traces(t)
		more := slices.ContainsFunc([]int{0, 1, 2, 3}, func(i int) bool { return now.counts[i] > before.counts[i] })
		stay := slices.DeleteFunc(slices.Clone(after.groups), func(g string) bool {
			return slices.Contains(before.groups, g) || !slices.Contains(now.groups, g) || orphan(g)
		})
		if !more && len(stay) == 0 {
			return ""
		}
		if time.Now().After(deadline) {
			return fmt.Sprintf("children, descriptors, mounts and folders were %v and are %v; control groups that stay: %q", before.counts, now.counts, stay)
		}
	}
}
