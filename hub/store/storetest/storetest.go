// Package storetest is the conformance suite of the hub's store: what every
// implementation must do, as tests that read like its contract. It knows no database;
// each implementation's tests call Run.
package storetest

import (
	"context"
	"testing"
	"time"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/hub/store"
)

// Run runs the suite. open returns an empty store that is closed when its test ends.
func Run(t *testing.T, open func(t *testing.T) store.Store) {
	for _, group := range []struct {
		name string
		run  func(*testing.T, func(*testing.T) store.Store)
	}{
		{"Catalogue", runCatalogue},
		{"Images", runImages},
		{"Jobs", runJobs},
		{"Tasks", runTasks},
		{"Ledger", runLedger},
		{"Nodes", runNodes},
		{"Keys", runKeys},
	} {
		t.Run(group.name, func(t *testing.T) { group.run(t, open) })
	}
}

// at is a moment with nanoseconds, in UTC as stores return it.
func at(seconds int) time.Time {
	return time.Date(2026, 3, 4, 5, 6, 7, 123456789, time.UTC).Add(time.Duration(seconds) * time.Second)
}

func digest(s string) spare.Digest { return spare.Sum([]byte(s)) }

func nodeID(s string) spare.NodeID { return spare.NodeID(spare.Sum([]byte(s))) }

// must fails the test on an error and returns the value.
func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

var ctx = context.Background()

func createJob(t *testing.T, s store.Store, id spare.JobID) spare.Job {
	t.Helper()
	j := spare.Job{ID: id, Name: "job " + string(id), Owner: "ann", Template: "t", State: spare.JobDraft, CreatedAt: at(0)}
	ok(t, s.CreateJob(ctx, j))
	return j
}

func someTasks(job spare.JobID, from, to int) []spare.Task {
	var tasks []spare.Task
	for i := from; i < to; i++ {
		tasks = append(tasks, spare.Task{
			ID: spare.NewTaskID(job, i), Job: job, Chunk: i, State: spare.TaskReady,
			Input: spare.File{Name: "in", Digest: digest(string(spare.NewTaskID(job, i))), Size: int64(i)},
		})
	}
	return tasks
}
