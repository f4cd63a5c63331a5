package e2e

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/client"
)

// echo is an App that hands its chunk on.
const echo = `
import os, shutil
shutil.copy(os.environ["TASK_DIR"] + "/data.bin", os.environ["TASK_RESULTS_DIR"] + "/out.bin")
`

// faultyPath is a way to the hub that calls cut once, after some bytes passed in one
// direction.
type faultyPath struct {
	t        *testing.T
	target   string
	listener net.Listener
	up, down atomic.Int64 // bytes until the cut; off when negative
	cut      func()
	once     sync.Once
	hub      sync.RWMutex // held while there is no hub
}

func newFaultyPath(t *testing.T, target string, cut func()) *faultyPath {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &faultyPath{t: t, target: target, listener: l, cut: cut}
	p.up.Store(1 << 60)
	p.down.Store(1 << 60)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { p.carry(c) })
		}
	})
	t.Cleanup(func() { l.Close(); wg.Wait() })
	return p
}

func (p *faultyPath) carry(near net.Conn) {
	defer near.Close()
	p.hub.RLock()
	far, err := net.Dial("tcp", p.target)
	p.hub.RUnlock()
	if err != nil {
		return
	}
	defer far.Close()
	done := make(chan struct{}, 2)
	move := func(dst, src net.Conn, left *atomic.Int64) {
		defer func() { done <- struct{}{} }()
		buf := make([]byte, 16<<10)
		for {
			n, err := src.Read(buf)
			if n > 0 {
				if left.Add(-int64(n)) < 0 {
					cutNow := false
					p.once.Do(func() { cutNow = true })
					if cutNow {
						p.hub.Lock()
						p.cut()
						p.hub.Unlock()
						left.Store(1 << 60)
						return
					}
				}
				if _, err := dst.Write(buf[:n]); err != nil {
					return
				}
			}
			if err != nil {
				return
			}
		}
	}
	go move(far, near, &p.up)
	go move(near, far, &p.down)
	<-done
}

// large writes an input that no packing makes smaller.
func (g *grid) large(name string, size int) (path string, content []byte) {
	g.t.Helper()
	content = make([]byte, size)
	if _, err := io.ReadFull(rand.Reader, content); err != nil {
		g.t.Fatal(err)
	}
	return g.file(name, string(content)), content
}

func TestHub_KilledDuringUploadAndDownloadItsUserGetsTheResult(t *testing.T) {
	t.Parallel()
	for _, direction := range []string{"upload", "download"} {
		t.Run(direction, func(t *testing.T) {
			t.Parallel()
			g := newGrid(t)
			g.app("echo", "passthrough", "passthrough", echo)
			g.addNodes("a")
			input, want := g.large("in.bin", 6<<20)
			killed := false
			path := newFaultyPath(t, g.httpAt, func() {
				killed = true
				g.restartHub()
			})
			if direction == "upload" {
				path.up.Store(2 << 20)
			} else {
				path.down.Store(2 << 20)
			}
			out := t.TempDir()
			stdout, stderr, code := g.try("env", "SPARE_HUB=http://"+path.listener.Addr().String(),
				"spare", "run", input, "--template", "echo", "-o", out)
			if code != 0 {
				t.Fatalf("exit code %d\n%s%s", code, stdout, stderr)
			}
			if !killed {
				t.Error("the hub was not killed; the test proves nothing")
			}
			got, err := os.ReadFile(filepath.Join(out, "out.bin"))
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("the result has %d bytes and differs from the %d sent", len(got), len(want))
			}
		})
	}
}

func TestHub_KilledWhileTheAppRunsItsUserGetsTheResult(t *testing.T) {
	t.Parallel()
	g := newGrid(t)
	g.app("slow", "passthrough", "passthrough", fmt.Sprintf(slow, "3"))
	g.addNodes("a")
	out := t.TempDir()
	run := g.start("env", "SPARE_HUB=http://"+g.httpAt, "SPARE_KEY_FILE="+filepath.Join(g.path("hub"), "admin.key"),
		"spare", "run", g.file("in.txt", "1\n"), "--template", "slow", "-o", out)
	var id string
	g.until(30*time.Second, "the App runs", func() bool {
		jobs, _, err := g.client().Jobs(t.Context(), client.ListOptions{})
		if err != nil || len(jobs) == 0 {
			return false
		}
		id = jobs[0].ID
		p, err := g.client().Progress(t.Context(), id)
		return err == nil && len(p.Attempts) > 0
	})
	g.restartHub()
	select {
	case <-run.done:
	case <-time.After(2 * time.Minute):
		run.kill()
		t.Fatalf("spare run did not end; it printed:\n%s", run.log)
	}
	if code := run.cmd.ProcessState.ExitCode(); code != 0 {
		t.Fatalf("exit code %d\n%s", code, run.log)
	}
	if got, err := os.ReadFile(filepath.Join(out, "out.txt")); err != nil || string(got) != "did 1\n" {
		t.Errorf("the result is %q, %v", got, err)
	}
	attempts, err := g.client().Attempts(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	checkOnce(t, attempts, 1)
}

// runOnDisk runs a joined node whose data folder is a disk of its own of so many bytes,
// in a mount namespace that ends with the node. It returns the path by which the folder
// is seen from outside.
func (g *grid) runOnDisk(name string, size int) string {
	g.t.Helper()
	dir := g.path(name)
	seed := dir + "-seed"
	if err := os.Rename(dir, seed); err != nil {
		g.t.Fatal(err)
	}
	g.nodes[name] = g.start("unshare", "--mount", "sh", "-ec",
		`mkdir "$1"; mount -t tmpfs -o size="$3" none "$1"; cp -a "$2"/. "$1"; exec spare-node run --data "$1"`,
		"sh", dir, seed, strconv.Itoa(size))
	return filepath.Join("/proc", strconv.Itoa(g.nodes[name].cmd.Process.Pid), "root", dir)
}

// fill writes zeros until the disk is full.
func fill(t *testing.T, file string) {
	t.Helper()
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	zeros := make([]byte, 4<<10)
	for err == nil {
		_, err = f.Write(zeros)
	}
	if f.Close(); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("fill the disk: %v", err)
	}
}

func TestNode_WithAFullDiskSaysSoAndItsWorkGoesElsewhere(t *testing.T) {
	if os.Geteuid() != 0 {
		return // only root can mount a disk for it
	}
	t.Parallel()
	g := newGrid(t)
	g.app("echo", "passthrough", "passthrough", echo)
	g.join("full")
	inside := g.runOnDisk("full", 64<<20)
	g.addNodes() // waits for it
	fill(t, filepath.Join(inside, "ballast"))
	input, want := g.large("in.bin", 4<<20)
	id := g.submit("echo", input)
	g.until(time.Minute, "the job says what it waits for", func() bool {
		p, err := g.client().Progress(t.Context(), id)
		return err == nil && len(p.Waiting) > 0 && strings.Contains(p.Waiting[0].Detail, string(spare.OutOfDisk))
	})
	g.addNodes("roomy")
	if job := g.wait(id, 2*time.Minute); job.State != client.StateComplete {
		t.Fatalf("job ended as %s: %s", job.State, job.Error)
	}
	if got := g.result(id); got != string(want) {
		t.Errorf("the result has %d bytes and differs from the %d sent", len(got), len(want))
	}
	g.until(90*time.Second, "the node says that its disk is full", func() bool { // it looks once a minute
		said := g.must("nsenter", "--mount", "--target", strconv.Itoa(g.nodes["full"].cmd.Process.Pid),
			filepath.Join(bin, "spare-node"), "status", "--data", g.path("full"))
		return strings.Contains(said, "0 MiB free; it is full: free some space, or nothing new can run here")
	})
	// With room again, and alone, it works as before.
	g.stop("roomy", g.nodes["roomy"])
	delete(g.nodes, "roomy")
	if err := os.Remove(filepath.Join(inside, "ballast")); err != nil {
		t.Fatal(err)
	}
	id = g.submit("echo", input)
	if job := g.wait(id, 2*time.Minute); job.State != client.StateComplete {
		t.Fatalf("with room again the job ended as %s: %s", job.State, job.Error)
	}
	if got := g.result(id); got != string(want) {
		t.Errorf("the result has %d bytes and differs from the %d sent", len(got), len(want))
	}
}

func TestHub_WithAFullDiskSaysSoAndLosesNothing(t *testing.T) {
	t.Parallel()
	g := newGrid(t)
	g.app("echo", "passthrough", "passthrough", "import time\ntime.sleep(3)\n"+echo)
	g.addNodes("a")
	input, want := g.large("in.bin", 1<<20)
	id := g.submit("echo", input)
	g.busyNode(id)
	// From here on the hub has to leave more free than there is.
	g.hub.kill()
	g.flags = []string{"--min-free", "4611686018427387904"}
	g.startHub()
	other, _ := g.large("other.bin", 1<<20)
	g.refused([]string{"disk is full", "free space on it or delete old jobs"}, "spare", "run", other, "--template", "echo", "-o", t.TempDir())
	g.until(30*time.Second, "the node has a result it cannot deliver", func() bool {
		found, err := filepath.Glob(filepath.Join(g.path("a"), "hubs", "*", "results", "*"))
		return err == nil && len(found) > 0
	})
	if job, err := g.client().Job(t.Context(), id); err != nil || client.Final(job.State) {
		t.Fatalf("job %+v, %v; want it to wait for room", job.State, err)
	}
	g.hub.kill()
	g.flags = nil
	g.startHub()
	if job := g.wait(id, 2*time.Minute); job.State != client.StateComplete {
		t.Fatalf("job ended as %s: %s", job.State, job.Error)
	}
	if got := g.result(id); got != string(want) {
		t.Errorf("the result has %d bytes and differs from the %d sent", len(got), len(want))
	}
	attempts, err := g.client().Attempts(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	checkOnce(t, attempts, 1)
}

func TestSpareRun_InterruptedWithoutATerminalDetachesAndSaysHowToFollow(t *testing.T) {
	t.Parallel()
	g := newGrid(t)
	g.app("slow", "passthrough", "passthrough", strings.Replace(slow, "%s", "4", 1))
	g.addNodes("a")
	run := g.start("env", append([]string{"SPARE_HUB=http://" + g.httpAt, "SPARE_KEY_FILE=" + filepath.Join(g.path("hub"), "admin.key")},
		"spare", "run", g.file("in.txt", "1\n"), "--template", "slow", "-o", t.TempDir())...)
	var id string
	g.until(30*time.Second, "the job runs", func() bool {
		jobs, _, err := g.client().Jobs(t.Context(), client.ListOptions{})
		if err != nil || len(jobs) == 0 || jobs[0].State != client.StateRunning {
			return false
		}
		id = jobs[0].ID
		return true
	})
	if err := run.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	<-run.done
	if code := run.cmd.ProcessState.ExitCode(); code == 0 || !strings.Contains(run.log.String(), id) {
		t.Errorf("exit code %d, and it printed:\n%s", code, run.log)
	}
	if job := g.wait(id, time.Minute); job.State != client.StateComplete {
		t.Errorf("the job its user left ended as %s: %s", job.State, job.Error)
	}
}
