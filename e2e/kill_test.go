package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/client"
)

// slow is an App that takes a while for each line of its chunk and hands the lines on.
const slow = `
import os, time
with open(os.environ["TASK_DIR"] + "/data.bin") as f:
    lines = f.read().split()
time.sleep(%s)
with open(os.environ["TASK_RESULTS_DIR"] + "/out.txt", "w") as f:
    for l in lines:
        f.write("did " + l + "\n")
`

func numbers(n int) (input, want string) {
	var in, out strings.Builder
	for i := range n {
		fmt.Fprintf(&in, "%d\n", i)
		fmt.Fprintf(&out, "did %d\n", i)
	}
	return in.String(), out.String()
}

// linesOf gives the parameters that cut an input into chunks of n lines.
func linesOf(n int) []string { return []string{"--partition", "lines_per_chunk=" + strconv.Itoa(n)} }

// checkOnce fails if an accepted chunk ran again or an attempt came after its
// chunk's acceptance.
func checkOnce(t *testing.T, attempts []spare.Attempt, chunks int) {
	t.Helper()
	accepted := map[int]spare.Attempt{}
	for _, a := range attempts {
		if a.Outcome != spare.Succeeded {
			continue
		}
		if first, again := accepted[a.Chunk]; again {
			t.Errorf("chunk %d was accepted from %s and again from %s", a.Chunk, first.ID, a.ID)
		}
		accepted[a.Chunk] = a
	}
	for _, a := range attempts {
		if won, ok := accepted[a.Chunk]; ok && a.ID != won.ID && won.Ended != nil && a.Granted.After(*won.Ended) {
			t.Errorf("chunk %d was accepted at %v and leased again at %v as %s", a.Chunk, won.Ended, a.Granted, a.ID)
		}
	}
	if len(accepted) != chunks {
		t.Errorf("%d chunks have an accepted attempt, want %d", len(accepted), chunks)
	}
}

func TestHub_KilledTenTimesLosesNothingAndRunsNothingTwice(t *testing.T) {
	t.Parallel()
	g := newGrid(t)
	g.app("slow", "lines", "concat", fmt.Sprintf(slow, "0.4"))
	g.addNodes("a", "b")
	const chunks = 40
	input, want := numbers(chunks)
	id := g.submit("slow", g.file("in.txt", input), linesOf(1)...)
	done := map[int]spare.TaskID{}
	for kill := range 10 {
		pause := time.Duration(rand.Int64N(int64(900 * time.Millisecond)))
		select {
		case <-time.After(pause): // a random moment is the point
		case <-t.Context().Done():
		}
		// What the hub says is done before the kill must be done after it.
		for _, task := range doneTasks(t.Context(), g.client(), id) {
			done[task.Chunk] = task.ID
		}
		g.restartHub()
		after := map[int]bool{}
		for _, task := range doneTasks(t.Context(), g.client(), id) {
			after[task.Chunk] = true
		}
		for chunk := range done {
			if !after[chunk] {
				t.Fatalf("kill %d: chunk %d was done before and is not after", kill, chunk)
			}
		}
	}
	job := g.wait(id, 2*time.Minute)
	if job.State != client.StateComplete {
		t.Fatalf("job ended as %s: %s", job.State, job.Error)
	}
	if got := g.result(id); got != want {
		t.Errorf("the result has %d bytes, want %d:\n%s", len(got), len(want), got)
	}
	attempts, err := g.client().Attempts(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	checkOnce(t, attempts, chunks)
}

func doneTasks(ctx context.Context, c *client.Client, job string) []spare.Task {
	tasks, err := c.Tasks(ctx, job)
	if err != nil {
		return nil
	}
	var done []spare.Task
	for _, t := range tasks {
		if t.State == spare.TaskDone {
			done = append(done, t)
		}
	}
	return done
}

func TestNode_KilledItsChunkFinishesElsewhere(t *testing.T) {
	t.Parallel()
	g := newGrid(t)
	g.app("slow", "lines", "concat", fmt.Sprintf(slow, "1"))
	g.addNodes("a", "b")
	input, want := numbers(8)
	id := g.submit("slow", g.file("in.txt", input), linesOf(1)...)
	victim := g.busyNode(id)
	g.nodes[victim].kill()
	delete(g.nodes, victim)
	killed := time.Now()
	job := g.wait(id, 2*time.Minute)
	if job.State != client.StateComplete {
		t.Fatalf("job ended as %s: %s", job.State, job.Error)
	}
	if got := g.result(id); got != want {
		t.Errorf("result %q, want %q", got, want)
	}
	attempts, err := g.client().Attempts(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	checkOnce(t, attempts, 8)
	lost := 0
	for _, a := range attempts {
		if a.Outcome == spare.Lost {
			lost++
			// How soon is the scheduler's promise, tested on its own clock; here it is only told.
			t.Logf("attempt %s of the dead node was given up %v after its death", a.ID, a.Ended.Sub(killed))
		}
	}
	if lost == 0 {
		t.Error("no attempt was lost although its node was killed")
	}
}

func TestNode_AloneKilledAndStartedAgainFinishesItsChunk(t *testing.T) {
	t.Parallel()
	g := newGrid(t)
	g.app("slow", "lines", "concat", fmt.Sprintf(slow, "1"))
	g.addNodes("only")
	input, want := numbers(3)
	id := g.submit("slow", g.file("in.txt", input), linesOf(1)...)
	g.busyNode(id)
	g.nodes["only"].kill()
	g.run("only")
	if job := g.wait(id, 2*time.Minute); job.State != client.StateComplete {
		t.Fatalf("job ended as %s: %s", job.State, job.Error)
	}
	if got := g.result(id); got != want {
		t.Errorf("result %q, want %q", got, want)
	}
}

func TestJob_ChunkThatAlwaysFailsEndsItOnOneNodeWithTheAppsLastWords(t *testing.T) {
	t.Parallel()
	g := newGrid(t)
	g.app("broken", "passthrough", "passthrough", `
import sys
print("reading the input")
sys.exit("the flux capacitor is missing")
`)
	g.addNodes("only")
	id := g.submit("broken", g.file("in.txt", "x\n"))
	job := g.wait(id, 2*time.Minute)
	if job.State != client.StateFailed {
		t.Fatalf("job ended as %s, want failed", job.State)
	}
	for _, want := range []string{"the flux capacitor is missing", "chunk 0", "exit code 1"} {
		if !strings.Contains(job.Error, want) {
			t.Errorf("the job's error %q does not say %q", job.Error, want)
		}
	}
}

// busyNode waits until a node works on the job and returns the name of its folder.
func (g *grid) busyNode(job string) string {
	g.t.Helper()
	var found string
	g.until(30*time.Second, "a node works on the job", func() bool {
		p, err := g.client().Progress(g.t.Context(), job)
		if err != nil || len(p.Attempts) == 0 {
			return false
		}
		for name := range g.nodes {
			if g.nodeID(name) == p.Attempts[0].Node {
				found = name
				return true
			}
		}
		return false
	})
	return found
}
