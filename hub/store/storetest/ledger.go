package storetest

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/hub/scheduler"
	"github.com/spare-compute/spare/hub/store"
)

func runTasks(t *testing.T, open func(*testing.T) store.Store) {
	t.Run("TasksComeInChunkOrder", func(t *testing.T) { tasksInOrder(t, open(t)) })
	t.Run("ChunkIsTakenOnce", func(t *testing.T) {
		s := open(t)
		createJob(t, s, "j")
		ok(t, s.AddTasks(ctx, someTasks("j", 0, 2)))
		if err := s.AddTasks(ctx, someTasks("j", 1, 4)); !errors.Is(err, store.ErrConflict) {
			t.Errorf("error %v, want ErrConflict", err)
		}
		if n := must[map[spare.TaskState]int](t)(s.CountTasks(ctx, "j")); n[spare.TaskReady] != 2 {
			t.Errorf("tasks %v: a refused call left something behind", n)
		}
	})
	t.Run("ReplaceStartsAgain", func(t *testing.T) {
		s := open(t)
		createJob(t, s, "j")
		ok(t, s.AddTasks(ctx, someTasks("j", 0, 5)))
		ok(t, s.Commit(ctx, scheduler.Ledger{Attempts: []spare.Attempt{anAttempt("j", 0, 1)}}))
		ok(t, s.ReplaceTasks(ctx, "j", someTasks("j", 0, 2)))
		if n := len(must[[]spare.Task](t)(s.Tasks(ctx, "j", 0, 0))); n != 2 {
			t.Errorf("%d tasks", n)
		}
		if a := must[[]spare.Attempt](t)(s.Attempts(ctx, "j")); len(a) != 0 {
			t.Errorf("attempts %+v", a)
		}
		ok(t, s.ReplaceTasks(ctx, "j", nil))
		if n := must[map[spare.TaskState]int](t)(s.CountTasks(ctx, "j")); len(n) != 0 {
			t.Errorf("tasks %v", n)
		}
	})
}

func tasksInOrder(t *testing.T, s store.Store) {
	createJob(t, s, "j")
	ok(t, s.AddTasks(ctx, nil))
	ok(t, s.AddTasks(ctx, someTasks("j", 10, 20)))
	ok(t, s.AddTasks(ctx, someTasks("j", 0, 10)))
	changed := someTasks("j", 3, 6)
	for i := range changed {
		changed[i].State = spare.TaskRunning
	}
	ok(t, s.Commit(ctx, scheduler.Ledger{Tasks: changed}))
	for _, c := range []struct {
		from, limit int
		states      []spare.TaskState
		want        string
	}{
		{0, 3, nil, "0 1 2"},
		{17, 0, nil, "17 18 19"},
		{20, 5, nil, ""},
		{0, 0, []spare.TaskState{spare.TaskRunning}, "3 4 5"},
		{2, 4, []spare.TaskState{spare.TaskReady}, "2 6 7 8"},
		{2, 3, []spare.TaskState{spare.TaskReady, spare.TaskRunning}, "2 3 4"},
	} {
		var chunks []string
		for _, task := range must[[]spare.Task](t)(s.Tasks(ctx, "j", c.from, c.limit, c.states...)) {
			chunks = append(chunks, fmt.Sprint(task.Chunk))
		}
		if got := strings.Join(chunks, " "); got != c.want {
			t.Errorf("from %d, %d of %v: %q, want %q", c.from, c.limit, c.states, got, c.want)
		}
	}
	want := map[spare.TaskState]int{spare.TaskReady: 17, spare.TaskRunning: 3}
	if got := must[map[spare.TaskState]int](t)(s.CountTasks(ctx, "j")); !reflect.DeepEqual(got, want) {
		t.Errorf("counts %v, want %v", got, want)
	}
}

func runLedger(t *testing.T, open func(*testing.T) store.Store) {
	t.Run("EmptyTurn", func(t *testing.T) { ok(t, open(t).Commit(ctx, scheduler.Ledger{})) })
	t.Run("TaskComesBackWhole", func(t *testing.T) { taskComesBackWhole(t, open(t)) })
	t.Run("AttemptComesBackWhole", func(t *testing.T) { attemptComesBackWhole(t, open(t)) })
	t.Run("AttemptsComeAsGranted", func(t *testing.T) { attemptsAsGranted(t, open(t)) })
	t.Run("ClosedJobKeepsWhatIsFinal", func(t *testing.T) { closedKeepsFinal(t, open(t)) })
	t.Run("RecordsAreReplaced", func(t *testing.T) {
		s := open(t)
		r := spare.Record{Node: nodeID("a"), App: "app", Finished: 1.5, Abandoned: 0.25, Right: 3, Wrong: 0.125, Failed: 2}
		other := spare.Record{Node: nodeID("a"), App: "other"}
		ok(t, s.Commit(ctx, scheduler.Ledger{Records: []spare.Record{{Node: r.Node, App: r.App}, other}}))
		ok(t, s.Commit(ctx, scheduler.Ledger{Records: []spare.Record{r}}))
		if got := must[[]spare.Record](t)(s.Records(ctx)); !reflect.DeepEqual(got, []spare.Record{r, other}) {
			t.Errorf("records %+v", got)
		}
	})
}

func anAttempt(job spare.JobID, chunk, number int) spare.Attempt {
	task := spare.NewTaskID(job, chunk)
	return spare.Attempt{
		ID: spare.NewAttemptID(task, number), Task: task, Job: job, Chunk: chunk, Number: number,
		Node: nodeID("a"), Granted: at(10*number + chunk), Expires: at(10*number + chunk + 8),
	}
}

func taskComesBackWhole(t *testing.T, s store.Store) {
	createJob(t, s, "j")
	added := someTasks("j", 0, 2)
	added[0].Params = json.RawMessage(`{"start":1.5}`)
	added[0].Input.Inline = []byte("kept with its task\x00")
	ok(t, s.AddTasks(ctx, added))
	if got := must[[]spare.Task](t)(s.Tasks(ctx, "j", 0, 0)); !reflect.DeepEqual(got, added) {
		t.Fatalf("tasks %+v\nwant %+v", got, added)
	}
	row := added[0]
	row.State, row.Attempts, row.NotBefore = spare.TaskReady, 2, at(60)
	row.Tries = []spare.Try{
		{Number: 1, Node: nodeID("a"), Outcome: spare.AppFailed, Granted: at(1), Ended: at(2), Counts: true},
		{Number: 2, Node: nodeID("b"), Outcome: spare.Lost, Granted: at(3), Ended: at(4)},
	}
	ok(t, s.Commit(ctx, scheduler.Ledger{Tasks: []spare.Task{row}}))
	if got := must[[]spare.Task](t)(s.Tasks(ctx, "j", 0, 1))[0]; !reflect.DeepEqual(got, row) {
		t.Errorf("task %+v\nwant %+v", got, row)
	}
	row.State, row.NotBefore, row.Node, row.Error, row.Tries = spare.TaskDone, time.Time{}, nodeID("b"), "x", nil
	row.Result = &spare.Result{Blob: spare.File{Name: "r", Digest: digest("r"), Size: 5, Inline: []byte("small")}, Content: digest("c"), Files: 2, Bytes: 9}
	ok(t, s.Commit(ctx, scheduler.Ledger{Tasks: []spare.Task{row}}))
	if got := must[[]spare.Task](t)(s.Tasks(ctx, "j", 0, 1))[0]; !reflect.DeepEqual(got, row) {
		t.Errorf("task %+v\nwant %+v", got, row)
	}
}

func attemptComesBackWhole(t *testing.T, s store.Store) {
	createJob(t, s, "j")
	ok(t, s.AddTasks(ctx, someTasks("j", 0, 1)))
	a := anAttempt("j", 0, 1)
	ok(t, s.Commit(ctx, scheduler.Ledger{Attempts: []spare.Attempt{a}}))
	if got := must[[]spare.Attempt](t)(s.LiveAttempts(ctx)); !reflect.DeepEqual(got, []spare.Attempt{a}) {
		t.Fatalf("live %+v\nwant %+v", got, a)
	}
	ended := at(15)
	a.Ended, a.Outcome, a.ExitCode, a.Message = &ended, spare.AppFailed, -9, "it said no"
	a.Log = "last words\n\x00\xffnot UTF-8"
	a.Usage = spare.Usage{Wall: time.Second, CPU: 2 * time.Second, PeakMemory: 3, Written: 4}
	a.Result = &spare.Result{Content: digest("c"), Files: 1}
	// Of two rows of one attempt in one turn the later one counts.
	lost := a
	lost.Outcome, lost.Result = spare.Lost, nil
	ok(t, s.Commit(ctx, scheduler.Ledger{Attempts: []spare.Attempt{lost, a}}))
	if got := must[[]spare.Attempt](t)(s.Attempts(ctx, "j")); !reflect.DeepEqual(got, []spare.Attempt{a}) {
		t.Errorf("attempts %+v\nwant %+v", got, a)
	}
	if got := must[[]spare.Attempt](t)(s.LiveAttempts(ctx)); len(got) != 0 {
		t.Errorf("still alive: %+v", got)
	}
	revived := anAttempt("j", 0, 1)
	ok(t, s.Commit(ctx, scheduler.Ledger{Attempts: []spare.Attempt{revived}}))
	if got := must[[]spare.Attempt](t)(s.LiveAttempts(ctx)); !reflect.DeepEqual(got, []spare.Attempt{revived}) {
		t.Errorf("after its lease was given back: %+v", got)
	}
}

func attemptsAsGranted(t *testing.T, s store.Store) {
	createJob(t, s, "j")
	ok(t, s.AddTasks(ctx, someTasks("j", 0, 2)))
	first, second, retry := anAttempt("j", 1, 1), anAttempt("j", 0, 1), anAttempt("j", 1, 2)
	first.Granted, second.Granted, retry.Granted = at(1), at(2), at(3)
	ok(t, s.Commit(ctx, scheduler.Ledger{Attempts: []spare.Attempt{second, retry, first}}))
	var order []spare.AttemptID
	for _, a := range must[[]spare.Attempt](t)(s.Attempts(ctx, "j")) {
		order = append(order, a.ID)
	}
	if want := []spare.AttemptID{"j.1.1", "j.0.1", "j.1.2"}; !reflect.DeepEqual(order, want) {
		t.Errorf("attempts %v, want %v", order, want)
	}
	if n := must[map[spare.Outcome]int](t)(s.CountAttempts(ctx, "j")); !reflect.DeepEqual(n, map[spare.Outcome]int{first.Outcome: 3}) {
		t.Errorf("attempts by outcome %v, want 3 of %q", n, first.Outcome)
	}
}

func closedKeepsFinal(t *testing.T, s store.Store) {
	createJob(t, s, "j")
	ok(t, s.AddTasks(ctx, someTasks("j", 0, 5)))
	rows := someTasks("j", 0, 4)
	rows[0].State, rows[1].State, rows[2].State, rows[3].State = spare.TaskDone, spare.TaskFailed, spare.TaskRunning, spare.TaskVerifying
	ok(t, s.Commit(ctx, scheduler.Ledger{Tasks: rows, Closed: []spare.JobID{"j"}}))
	want := map[spare.TaskState]int{spare.TaskDone: 1, spare.TaskFailed: 1, spare.TaskCancelled: 3}
	if got := must[map[spare.TaskState]int](t)(s.CountTasks(ctx, "j")); !reflect.DeepEqual(got, want) {
		t.Errorf("counts %v, want %v", got, want)
	}
}
