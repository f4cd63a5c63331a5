package e2e

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/client"
)

func TestSpareRun_MontecarloOnThreeNodes(t *testing.T) {
	t.Parallel()
	g := newGrid(t)
	g.addNodes("a", "b", "c")
	out := t.TempDir()
	g.must("spare", "run", g.file("any.txt", "anything"), "--template", "montecarlo",
		"--param", "samples=200000", "--partition", "num_replicas=12", "-o", out)
	raw, err := os.ReadFile(filepath.Join(out, "results.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(raw)), "\n")
	if len(lines) != 12 {
		t.Fatalf("%d lines, want one for each of 12 chunks:\n%s", len(lines), raw)
	}
	seen := map[float64]bool{}
	for _, l := range lines {
		var r map[string]any
		if err := json.Unmarshal([]byte(l), &r); err != nil {
			t.Fatal(err)
		}
		pi, ok := r["pi"].(float64)
		if !ok || math.Abs(pi-math.Pi) > 0.05 {
			t.Errorf("%s: want pi near %v", l, math.Pi)
		}
		seen[pi] = true
	}
	if len(seen) < 10 {
		t.Errorf("12 chunks drew only %d different numbers", len(seen))
	}
}

func TestSpareRun_HelloWorldAsAnOrdinaryUserMeetsIt(t *testing.T) {
	t.Parallel()
	g := newGrid(t)
	g.addNodes("a")
	out := t.TempDir()
	g.must("spare", "run", g.file("hello.txt", "hello from spare\n"), "--template", "hello-world", "--param", "case=upper", "-o", out)
	raw, err := os.ReadFile(filepath.Join(out, "hello_world_processed.txt"))
	if err != nil {
		t.Fatal(err)
	}
	if strings.TrimSpace(string(raw)) != "HELLO FROM SPARE" {
		t.Errorf("got %q", raw)
	}
}

func TestHub_StartsAndStopsClean(t *testing.T) {
	t.Parallel()
	g := newGrid(t)
	began := time.Now()
	g.stop("hub", g.hub)
	if code := g.hub.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("the hub ended with code %d after SIGTERM:\n%s", code, g.hub.log)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("the hub took %v to stop", took)
	}
	info, err := os.Stat(filepath.Join(g.path("hub"), "admin.key"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("admin.key: %v, %v; want mode 0600", info.Mode(), err)
	}
	g.startHub()
}

func TestHub_AwayDuringAJobItsUserOnlyWaits(t *testing.T) {
	t.Parallel()
	g := newGrid(t)
	g.app("slow", "lines", "concat", strings.Replace(slow, "%s", "0.5", 1))
	g.addNodes("a")
	input, want := numbers(6)
	id := g.submit("slow", g.file("in.txt", input), linesOf(1)...)
	g.busyNode(id)
	g.stop("hub", g.hub)
	g.startHub()
	if job := g.wait(id, time.Minute); job.State != client.StateComplete {
		t.Fatalf("job ended as %s: %s", job.State, job.Error)
	}
	if got := g.result(id); got != want {
		t.Errorf("result %q, want %q", got, want)
	}
}

func TestNode_KeepsAFinishedResultWhileTheHubIsAway(t *testing.T) {
	t.Parallel()
	g := newGrid(t)
	g.app("slow", "passthrough", "passthrough", strings.Replace(slow, "%s", "2", 1))
	g.addNodes("a")
	id := g.submit("slow", g.file("in.txt", "1\n"))
	g.busyNode(id)
	g.hub.kill()
	// The App ends while there is no hub; the node must keep what it made.
	g.until(30*time.Second, "the node has packed its result", func() bool {
		found, err := filepath.Glob(filepath.Join(g.path("a"), "hubs", "*", "results", "*"))
		return err == nil && len(found) > 0
	})
	g.startHub()
	if job := g.wait(id, time.Minute); job.State != client.StateComplete {
		t.Fatalf("job ended as %s: %s", job.State, job.Error)
	}
	attempts, err := g.client().Attempts(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	if len(attempts) != 1 || attempts[0].Outcome != spare.Succeeded {
		t.Errorf("attempts %+v, want the one that ended while the hub was away", attempts)
	}
}

func TestJob_AbortStopsItsWorkAndDeleteRemovesIt(t *testing.T) {
	t.Parallel()
	g := newGrid(t)
	g.app("slow", "passthrough", "passthrough", strings.Replace(slow, "%s", "60", 1))
	g.addNodes("a")
	id := g.submit("slow", g.file("in.txt", "1\n"))
	g.busyNode(id)
	g.must("spare", "job", "abort", id)
	if job := g.wait(id, 10*time.Second); job.State != client.StateAborted {
		t.Fatalf("job is %s after abort", job.State)
	}
	g.until(10*time.Second, "the node is idle again", func() bool {
		nodes, err := g.client().Nodes(t.Context())
		return err == nil && len(nodes) == 1 && nodes[0].State == spare.NodeIdle
	})
	g.must("spare", "job", "delete", id)
	if _, err := g.client().Job(t.Context(), id); !client.IsNotFound(err) {
		t.Errorf("a deleted job is still there: %v", err)
	}
}

func TestJob_LongerThanItsTimeoutFailsWithThatSentence(t *testing.T) {
	t.Parallel()
	g := newGrid(t)
	g.app("slow", "passthrough", "passthrough", strings.Replace(slow, "%s", "60", 1))
	g.addNodes("a")
	id := g.submit("slow", g.file("in.txt", "1\n"), "--timeout", "2s")
	job := g.wait(id, time.Minute)
	if job.State != client.StateFailed || !strings.Contains(job.Error, "jobTimeout") {
		t.Errorf("job ended as %s: %q", job.State, job.Error)
	}
}
