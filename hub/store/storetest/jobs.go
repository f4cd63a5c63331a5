package storetest

import (
	"encoding/json"
	"errors"
	"reflect"
	"sync"
	"testing"
	"time"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/hub/scheduler"
	"github.com/spare-compute/spare/hub/store"
)

func runJobs(t *testing.T, open func(*testing.T) store.Store) {
	t.Run("JobComesBackWhole", func(t *testing.T) { jobComesBackWhole(t, open(t)) })
	t.Run("IDIsTakenOnce", func(t *testing.T) {
		s := open(t)
		j := createJob(t, s, "j")
		if err := s.CreateJob(ctx, j); !errors.Is(err, store.ErrConflict) {
			t.Errorf("second create: %v, want ErrConflict", err)
		}
	})
	t.Run("ListIsNewestFirst", func(t *testing.T) { listIsNewestFirst(t, open(t)) })
	t.Run("FailedChangeLeavesTheJob", func(t *testing.T) { failedChangeLeavesTheJob(t, open(t)) })
	t.Run("ConcurrentUpdatesAllCount", func(t *testing.T) { concurrentUpdates(t, open(t)) })
	t.Run("DeleteTakesTasksAndAttemptsAlong", func(t *testing.T) { deleteTakesAll(t, open(t)) })
	t.Run("ReferencesNameEveryBlob", func(t *testing.T) { references(t, open(t)) })
}

func jobComesBackWhole(t *testing.T, s store.Store) {
	j := spare.Job{
		ID: "j", Name: "a name", Owner: "ann", Template: "video", State: spare.JobRunning,
		Source: spare.DataPoint{Descriptor: "url", Params: map[string]string{"url": "https://example.org/a.mp4"}},
		Params: spare.Params{Preset: "web", App: json.RawMessage(`{"a":[1,2]}`)},
		Config: spare.JobConfig{TaskTimeout: 60, MaxTaskRetries: 2},
		Times:  map[spare.JobState]time.Time{spare.JobDraft: at(0), spare.JobRunning: at(3)},
		Input:  &spare.File{Name: "a.mp4", Digest: digest("a"), Size: 12},
		Plan: &spare.Plan{
			App: spare.App{Name: "transcode", Bundle: digest("b")}, MaxRetries: 3,
			PartitionCfg: json.RawMessage(`{}`), AssembleCfg: json.RawMessage(`{}`), AppParams: json.RawMessage(`{}`),
		},
		Chunks: 4, Notes: json.RawMessage(`{"fps":25}`), CreatedAt: at(0),
	}
	ok(t, s.CreateJob(ctx, j))
	if got := must[spare.Job](t)(s.Job(ctx, "j")); !reflect.DeepEqual(got, j) {
		t.Errorf("job %+v\nwant %+v", got, j)
	}
}

func listIsNewestFirst(t *testing.T, s store.Store) {
	for i, id := range []spare.JobID{"a", "b", "c", "d"} {
		j := spare.Job{ID: id, Owner: []string{"ann", "bob"}[i%2], State: spare.JobDraft, CreatedAt: at(i)}
		if i == 2 {
			j.State = spare.JobRunning
		}
		ok(t, s.CreateJob(ctx, j))
	}
	for _, c := range []struct {
		q     store.JobQuery
		want  string
		total int
	}{
		{store.JobQuery{}, "dcba", 4},
		{store.JobQuery{Limit: 2}, "dc", 4},
		{store.JobQuery{Offset: 1, Limit: 2}, "cb", 4},
		{store.JobQuery{Offset: 9}, "", 4},
		{store.JobQuery{Owner: "ann"}, "ca", 2},
		{store.JobQuery{States: []spare.JobState{spare.JobDraft}}, "dba", 3},
		{store.JobQuery{Owner: "ann", States: []spare.JobState{spare.JobRunning, spare.JobFailed}}, "c", 1},
	} {
		jobs, total, err := s.ListJobs(ctx, c.q)
		ok(t, err)
		got := ""
		for _, j := range jobs {
			got += string(j.ID)
		}
		if got != c.want || total != c.total {
			t.Errorf("%+v: %s of %d, want %s of %d", c.q, got, total, c.want, c.total)
		}
	}
}

func failedChangeLeavesTheJob(t *testing.T, s store.Store) {
	before := createJob(t, s, "j")
	stop := errors.New("stop")
	_, err := s.UpdateJob(ctx, "j", func(j *spare.Job) error { j.Name = "changed"; return stop })
	if !errors.Is(err, stop) {
		t.Errorf("error %v, want the change's own", err)
	}
	if got := must[spare.Job](t)(s.Job(ctx, "j")); !reflect.DeepEqual(got, before) {
		t.Errorf("job became %+v", got)
	}
	got := must[spare.Job](t)(s.UpdateJob(ctx, "j", func(j *spare.Job) error { return j.Move(spare.JobPartitioning, at(1)) }))
	if got.State != spare.JobPartitioning {
		t.Errorf("updated job is %s", got.State)
	}
	if _, n, _ := s.ListJobs(ctx, store.JobQuery{States: []spare.JobState{spare.JobPartitioning}}); n != 1 {
		t.Error("the list does not see the new state")
	}
}

func concurrentUpdates(t *testing.T, s store.Store) {
	createJob(t, s, "j")
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 10 {
				if _, err := s.UpdateJob(ctx, "j", func(j *spare.Job) error { j.Done++; return nil }); err != nil {
					t.Error(err)
				}
				if _, err := s.Job(ctx, "j"); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if j := must[spare.Job](t)(s.Job(ctx, "j")); j.Done != 80 {
		t.Errorf("%d of 80 updates count", j.Done)
	}
}

func deleteTakesAll(t *testing.T, s store.Store) {
	createJob(t, s, "j")
	createJob(t, s, "k")
	ok(t, s.AddTasks(ctx, someTasks("j", 0, 3)))
	ok(t, s.AddTasks(ctx, someTasks("k", 0, 1)))
	ok(t, s.Commit(ctx, scheduler.Ledger{Attempts: []spare.Attempt{anAttempt("j", 0, 1), anAttempt("k", 0, 1)}}))
	ok(t, s.DeleteJob(ctx, "j"))
	if live := must[[]spare.Attempt](t)(s.LiveAttempts(ctx)); len(live) != 1 || live[0].Job != "k" {
		t.Errorf("live attempts %+v", live)
	}
	// A turn that was under way when the job was deleted changes nothing.
	ok(t, s.Commit(ctx, scheduler.Ledger{
		Tasks: someTasks("j", 0, 1), Attempts: []spare.Attempt{anAttempt("j", 0, 2)}, Closed: []spare.JobID{"j", "k"},
	}))
	if live := must[[]spare.Attempt](t)(s.LiveAttempts(ctx)); len(live) != 1 {
		t.Errorf("live attempts %+v", live)
	}
	if n := must[map[spare.TaskState]int](t)(s.CountTasks(ctx, "k")); n[spare.TaskCancelled] != 1 {
		t.Errorf("k's tasks %v", n)
	}
	createJob(t, s, "j") // the id is free again, and nothing of the old job is left
	if n := must[map[spare.TaskState]int](t)(s.CountTasks(ctx, "j")); len(n) != 0 {
		t.Errorf("the new j has tasks %v", n)
	}
}

func references(t *testing.T, s store.Store) {
	must[spare.App](t)(s.PutApp(ctx, spare.App{Name: "a", Version: "1", Kind: spare.KindApp, Bundle: digest("bundle")}))
	ok(t, s.CreateJob(ctx, spare.Job{
		ID: "j", State: spare.JobRunning, Input: &spare.File{Digest: digest("source")},
		Plan:    &spare.Plan{App: spare.App{Bundle: digest("pinned bundle")}},
		Results: []spare.File{{Digest: digest("output")}},
	}))
	ok(t, s.AddTasks(ctx, someTasks("j", 0, 2)))
	done := someTasks("j", 0, 1)
	done[0].State, done[0].Result = spare.TaskDone, &spare.Result{Blob: spare.File{Digest: digest("result")}}
	back := someTasks("j", 1, 2)
	back[0].Tries = []spare.Try{{Number: 1, Checkpoint: &spare.File{Digest: digest("checkpoint")}}, {Number: 2}}
	ok(t, s.Commit(ctx, scheduler.Ledger{Tasks: append(done, back...)}))
	want := map[spare.Digest]struct{}{}
	for _, d := range []spare.Digest{
		digest("bundle"), digest("source"), digest("pinned bundle"), digest("output"), digest("result"), digest("checkpoint"), digest("j.0"), digest("j.1"),
	} {
		want[d] = struct{}{}
	}
	if got := must[map[spare.Digest]struct{}](t)(s.References(ctx)); !reflect.DeepEqual(got, want) {
		t.Errorf("references %v\nwant %v", got, want)
	}
}
