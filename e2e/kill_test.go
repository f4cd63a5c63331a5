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
	killed := time.Now()
	g.nodes[victim].kill()
	delete(g.nodes, victim)
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
			if after := a.Ended.Sub(killed); after >= silence {
				t.Errorf("attempt %s of the dead node was queued again %v after its death, want less than %v", a.ID, after, silence)
			}
		}
	}
	if lost == 0 {
		t.Error("no attempt was lost although its node was killed")
	}
}

// silence is how soon a silent node's work is queued again.
const silence = 10 * time.Second

// heavy is an App whose chunks take a while to fetch, to run and to bring back.
const heavy = `
import os, time
with open(os.environ["TASK_DIR"] + "/data.bin", "rb") as f:
    data = f.read()
time.sleep(%s)
with open(os.environ["TASK_RESULTS_DIR"] + "/out.bin", "wb") as f:
    f.write(data)
`

// heavyLines is an input of n lines of so many random hex digits.
func heavyLines(n, digits int) string {
	var b strings.Builder
	for range n {
		for b.Len()%(digits+1) < digits {
			fmt.Fprintf(&b, "%016x", rand.Uint64())
		}
		b.WriteByte('\n')
	}
	return b.String()
}

func TestNode_KilledAgainAndAgainAtAnyMomentTheJobIsWhole(t *testing.T) {
	t.Parallel()
	g := newGrid(t)
	g.app("heavy", "lines", "concat", fmt.Sprintf(heavy, "1"))
	g.addNodes("a", "b")
	const chunks, kills = 32, 3
	input := heavyLines(chunks, 256<<10)
	id := g.submit("heavy", g.file("in.txt", input), linesOf(1)...)
	for kill := range kills {
		victim := g.busyNode(id)
		// What it is at by then, fetching, running, bringing back or reporting, is chance.
		select {
		case <-time.After(time.Duration(rand.Int64N(int64(800 * time.Millisecond)))):
		case <-t.Context().Done():
		}
		killed := time.Now()
		g.nodes[victim].kill()
		node := g.nodeID(victim)
		g.until(silence+20*time.Second, "the dead node's work is queued again", func() bool {
			attempts, err := g.client().Attempts(t.Context(), id)
			if err != nil {
				return false
			}
			for _, a := range attempts {
				switch {
				case a.Node != node:
				case a.Ended == nil:
					return false
				case a.Outcome == spare.Lost && a.Granted.Before(killed) && a.Ended.After(killed):
					after := a.Ended.Sub(killed)
					t.Logf("kill %d: attempt %s was queued again %v after", kill, a.ID, after)
					if after >= silence {
						t.Errorf("kill %d: attempt %s was queued again %v after its node's death, want less than %v", kill, a.ID, after, silence)
					}
				}
			}
			return true
		})
		g.run(victim)
	}
	g.comesBackWhole(id, 3*time.Minute, input, chunks)
}

// comesBackWhole waits for a job that gives its input back, each chunk done once.
func (g *grid) comesBackWhole(id string, within time.Duration, input string, chunks int) {
	g.t.Helper()
	if job := g.wait(id, within); job.State != client.StateComplete {
		g.t.Fatalf("job ended as %s: %s", job.State, job.Error)
	}
	if got := g.result(id); got != input {
		g.t.Errorf("the result has %d bytes and differs from the %d sent", len(got), len(input))
	}
	attempts, err := g.client().Attempts(g.t.Context(), id)
	if err != nil {
		g.t.Fatal(err)
	}
	checkOnce(g.t, attempts, chunks)
}

func TestHub_KilledWhileItCutsAndWhileItJoinsLosesNothing(t *testing.T) {
	t.Parallel()
	g := newGrid(t)
	g.app("heavy", "lines", "concat", fmt.Sprintf(heavy, "0"))
	g.addNodes("a")
	const chunks = 12
	input := heavyLines(chunks, 1<<20)
	id := g.submit("heavy", g.file("in.txt", input), linesOf(1)...)
	hit := map[string]int{}
	for _, stage := range []string{client.StatePartitioning, client.StatePartitioning, client.StateAssembling, client.StateAssembling} {
		g.until(2*time.Minute, "the job is "+stage+" or past it", func() bool {
			job, err := g.client().Job(t.Context(), id)
			if err == nil && job.State == stage {
				hit[stage]++
			}
			past := stage == client.StatePartitioning && job.State != client.StateNew
			return err == nil && (job.State == stage || past || client.Final(job.State))
		})
		g.restartHub()
	}
	t.Logf("killed at %v", hit)
	g.comesBackWhole(id, 2*time.Minute, input, chunks)
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
	if out := g.must("spare", "job", "logs", id); !strings.Contains(out, "chunk 0 try 1 | reading the input\n") || !strings.Contains(out, "chunk 0 try 1 | the flux capacitor is missing\n") {
		t.Errorf("spare job logs printed:\n%s", out)
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
