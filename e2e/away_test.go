package e2e

import (
	"bytes"
	"crypto/rand"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

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

func TestHub_KilledDuringUploadRunAndDownloadItsUserGetsTheResult(t *testing.T) {
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
	g.refused([]string{"disk", "free"}, "spare", "run", other, "--template", "echo", "-o", t.TempDir())
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
