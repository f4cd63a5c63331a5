package sandbox

import (
	"bufio"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// holding starts a script outside of any sandbox, waits until it has said "ready", and
// returns its number. It ends with the test.
func holding(t *testing.T, script string, args ...string) (pid int) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "python3", append([]string{"-c", "import os, sys, ctypes, mmap, threading, time\n" + script}, args...)...)
	var errs strings.Builder
	cmd.Stderr = &errs
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	if line, _ := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		t.Fatalf("it said %q: %s", line, errs.String())
	}
	return cmd.Process.Pid
}

// keeper is a script: keep holds a deleted file of so many MiB open.
const keeper = `
def keep(mebibytes):
    name = sys.argv[1] + "/gone"
    f = os.open(name, os.O_CREAT | os.O_RDWR)
    os.remove(name)
    os.write(f, b"x" * (mebibytes << 20))
    return f
`

const untilKilled = `
print("ready", flush=True)
time.sleep(600)`

// afterFirst does the rest of a script in a thread whose process's first thread has ended.
func afterFirst(rest string) string {
	return `
def work():
    while ") Z " not in open("/proc/self/stat").read(): time.sleep(0.01)
    ` + strings.ReplaceAll(strings.TrimSpace(rest), "\n", "\n    ") + `
threading.Thread(target=work).start()
ctypes.CDLL(None).syscall(93 if os.uname().machine == "aarch64" else 60, 0) # exit(2)`
}

func TestHeld_ThreadsCountByThemselves(t *testing.T) {
	for name, c := range map[string]struct {
		script string
		files  int64
	}{
		"one thread":                      {keeper + "keep(1)" + untilKilled, 1},
		"when the first is gone":          {keeper + afterFirst("keep(1)"+untilKilled), 1},
		"with their own descriptors":      {keeper + holder + "for _ in range(3):\n    f = keep(1)\n    hold()\n    os.close(f)" + untilKilled, 3},
		"with their own and the same one": {keeper + holder + "f = keep(1)\nhold()\nhold()" + untilKilled, 1},
		"with the process's":              {keeper + "keep(1)\nfor _ in range(9): threading.Thread(target=time.sleep, args=(600,)).start()" + untilKilled, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			got := heldBy([]int{holding(t, c.script, dir)}, []string{dir})
			if got.files != c.files || got.bytes != c.files<<20 {
				t.Errorf("%+v, want %d MiB", got, c.files)
			}
		})
	}
}

// Threads that share their descriptors are looked at once, if the kernel tells who does.
func TestHeld_ThreadsCostLittle(t *testing.T) {
	pid := holding(t, `
for _ in range(20): threading.Thread(target=time.sleep, args=(600,)).start()
for _ in range(200): os.dup(0)`+untilKilled)
	all := threads(pid)
	if len(all) != 21 {
		t.Fatalf("%d threads", len(all))
	}
	if !sameFiles(all[0], all[0]) {
		t.Log("this kernel does not compare threads")
		return
	}
	h := newHolders(nil)
	h.process(pid)
	if looks := mostLooks - h.left; looks > 500 {
		t.Errorf("%d looks at 200 files of 21 threads", looks)
	}
}

// What takes too long to find hides the rest.
func TestHeld_EndlessDescriptorsAreHidden(t *testing.T) {
	dir := t.TempDir()
	pid := holding(t, keeper+"for _ in range(200): os.dup(0)\nkeep(1)"+untilKilled, dir)
	h := newHolders([]string{dir})
	h.left = 100
	h.process(pid)
	if !h.hidden {
		t.Errorf("%+v after 100 looks at more than 200 files", h.held)
	}
	if got := heldBy([]int{pid}, []string{dir}); got.hidden || got.files != 1 {
		t.Errorf("%+v with time for all", got)
	}
}

func TestUse_MemoryOfAProcessIsAnyThreads(t *testing.T) {
	for name, script := range map[string]string{
		"own":                           "held = b'x' * (64 << 20)" + untilKilled,
		"shared":                        "held = mmap.mmap(-1, 64 << 20)\nheld.write(b'x' * (64 << 20))" + untilKilled,
		"of many threads":               "held = b'x' * (64 << 20)\nfor _ in range(9): threading.Thread(target=time.sleep, args=(600,)).start()" + untilKilled,
		"own when the first is gone":    afterFirst("held = b'x' * (64 << 20)" + untilKilled),
		"shared when the first is gone": afterFirst("held = mmap.mmap(-1, 64 << 20)\nheld.write(b'x' * (64 << 20))" + untilKilled),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := memoryOf([]int{holding(t, script)}); got < 64<<20 || got > 120<<20 {
				t.Errorf("%d MiB of 64", got>>20)
			}
		})
	}
}

// A run decides how long its files take to count, so it must not decide how seldom they are.
func TestDisk_CountsComeHoweverLongTheyTake(t *testing.T) {
	quiet := diskUse{volumes: volumesOf([]string{t.TempDir()}), limit: tally{1 << 40, 1 << 40}}
	hurried := diskUse{volumes: []volume{{dir: filepath.Dir(t.TempDir()), floor: tally{bytes: 1 << 62}}}, limit: quiet.limit}
	for cost, want := range map[time.Duration]struct{ quiet, hurried time.Duration }{
		time.Millisecond:       {diskPause, diskUrgent * time.Millisecond},
		100 * time.Millisecond: {5 * time.Second, 300 * time.Millisecond},
		time.Minute:            {diskLongest, diskPressed},
	} {
		quiet.cost, hurried.cost = cost, cost
		for d, pause := range map[*diskUse]time.Duration{&quiet: want.quiet, &hurried: want.hurried} {
			if d.due(pause-1) || !d.due(pause) {
				t.Errorf("a count of %v, in a hurry %t: before %v %t, then %t", cost, d == &hurried, pause, d.due(pause-1), d.due(pause))
			}
		}
	}
}
