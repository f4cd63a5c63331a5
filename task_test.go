package spare_test

import (
	"slices"
	"testing"

	"github.com/spare-compute/spare"
)

func TestTask_FinalStates(t *testing.T) {
	for state, want := range map[spare.TaskState]bool{
		spare.TaskReady: false, spare.TaskRunning: false, spare.TaskVerifying: false,
		spare.TaskDone: true, spare.TaskFailed: true, spare.TaskCancelled: true, "": false,
	} {
		if state.Final() != want {
			t.Errorf("%q is final: %v, want %v", state, !want, want)
		}
	}
}

func TestOutcome_OnlyWhatTheAppDidBlamesTheTask(t *testing.T) {
	blamed := []spare.Outcome{spare.AppFailed, spare.TimedOut, spare.OutOfMemory, spare.Rejected}
	for _, o := range spare.Outcomes {
		if o.BlamesTask() != slices.Contains(blamed, o) {
			t.Errorf("%s blames the task: %v", o, o.BlamesTask())
		}
	}
}

func TestOutcome_EachIsListedOnce(t *testing.T) {
	if n := len(slices.Compact(slices.Sorted(slices.Values(spare.Outcomes)))); n != len(spare.Outcomes) || n != 12 {
		t.Errorf("%d outcomes, %d of them different, want 12", len(spare.Outcomes), n)
	}
}

func TestAttemptID_NamesItsTask(t *testing.T) {
	task := spare.NewTaskID("0b9e", 17)
	id := spare.NewAttemptID(task, 3)
	if id != "0b9e.17.3" || id.Task() != task {
		t.Errorf("attempt %s of task %s names %s", id, task, id.Task())
	}
	if got := spare.AttemptID("nonsense").Task(); got != "" {
		t.Errorf("a malformed attempt names task %q", got)
	}
}

func TestDigest_OnlySixtyFourHexDigits(t *testing.T) {
	good := string(spare.Sum([]byte("x")))
	if d, err := spare.ParseDigest(good); err != nil || !d.Valid() || d.Short() != good[:12] {
		t.Errorf("%s: %v", good, err)
	}
	for _, bad := range []string{"", good[:63], good + "0", "../" + good[3:], "G" + good[1:], "A" + good[1:]} {
		if _, err := spare.ParseDigest(bad); err == nil || spare.Digest(bad).Valid() {
			t.Errorf("%q was taken for a digest", bad)
		}
	}
}
