package sqlite_test

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/hub/scheduler"
	"github.com/spare-compute/spare/hub/store/sqlite"
)

// BenchmarkCommit writes turns as the scheduler makes them: of every two transitions one
// grants a task (task and attempt rows) and one accepts a result (task, attempt and
// record rows).
func BenchmarkCommit(b *testing.B) {
	for _, group := range []int{1, 10, 100, 500} {
		b.Run(fmt.Sprint(group), func(b *testing.B) {
			s := open(b, filepath.Join(b.TempDir(), "hub.db"), sqlite.Options{})
			if err := s.CreateJob(ctx, spare.Job{ID: "0b44c3f2-6f3e-4a8e-a1cb-9d8e1c1f2a3b"}); err != nil {
				b.Fatal(err)
			}
			chunks, transitions := 0, 0
			for b.Loop() {
				b.StopTimer()
				var tasks []spare.Task
				for range (group + 1) / 2 {
					tasks = append(tasks, benchTask(chunks))
					chunks++
				}
				if err := s.AddTasks(ctx, tasks); err != nil {
					b.Fatal(err)
				}
				grant, accept := benchTurns(tasks)
				b.StartTimer()
				for _, l := range []scheduler.Ledger{grant, accept} {
					if err := s.Commit(ctx, l); err != nil {
						b.Fatal(err)
					}
					transitions += len(l.Tasks)
				}
			}
			b.ReportMetric(float64(transitions)/b.Elapsed().Seconds(), "transitions/s")
		})
	}
}

func benchTask(chunk int) spare.Task {
	const job = spare.JobID("0b44c3f2-6f3e-4a8e-a1cb-9d8e1c1f2a3b")
	return spare.Task{
		ID: spare.NewTaskID(job, chunk), Job: job, Chunk: chunk, State: spare.TaskReady,
		Input: spare.File{Name: "chunk.mp4", Digest: spare.Sum([]byte("in")), Size: 1 << 20},
	}
}

func benchTurns(tasks []spare.Task) (grant, accept scheduler.Ledger) {
	now, node := time.Now(), spare.NodeID(spare.Sum([]byte("node")))
	for _, t := range tasks {
		a := spare.Attempt{
			ID: spare.NewAttemptID(t.ID, 1), Task: t.ID, Job: t.Job, Chunk: t.Chunk, Number: 1, Node: node,
			Granted: now, Expires: now.Add(8 * time.Second),
		}
		t.State, t.Attempts = spare.TaskRunning, 1
		grant.Tasks = append(grant.Tasks, t)
		grant.Attempts = append(grant.Attempts, a)
		r := &spare.Result{Blob: spare.File{Digest: spare.Sum([]byte("out")), Size: 1 << 20}, Content: spare.Sum([]byte("c")), Files: 1, Bytes: 1 << 20}
		t.State, t.Node, t.Result = spare.TaskDone, node, r
		a.Ended, a.Outcome, a.Result, a.Usage = &now, spare.Succeeded, r, spare.Usage{Wall: time.Second, CPU: time.Second}
		accept.Tasks = append(accept.Tasks, t)
		accept.Attempts = append(accept.Attempts, a)
	}
	accept.Records = []spare.Record{{Node: node, App: "app", Finished: 1}}
	return grant, accept
}

// BenchmarkOpen opens an existing database, as each start of a hub does.
func BenchmarkOpen(b *testing.B) {
	path := filepath.Join(b.TempDir(), "hub.db")
	open(b, path, sqlite.Options{}).Close()
	for b.Loop() {
		s, err := sqlite.Open(ctx, path, sqlite.Options{})
		if err != nil {
			b.Fatal(err)
		}
		if err := s.Close(); err != nil {
			b.Fatal(err)
		}
	}
}
