package spare_test

import (
	"strings"
	"testing"
	"time"

	"github.com/spare-compute/spare"
)

var jobStates = []spare.JobState{
	spare.JobDraft, spare.JobPartitioning, spare.JobRunning, spare.JobAssembling,
	spare.JobComplete, spare.JobFailed, spare.JobAborted,
}

// jobMoves is the picture in the comment of JobState, move by move.
const jobMoves = `
draft → partitioning
draft → aborted
partitioning → running
partitioning → failed
partitioning → aborted
running → assembling
running → failed
running → aborted
assembling → complete
assembling → failed
assembling → aborted
`

func TestJob_MovesAreThoseOfTheTable(t *testing.T) {
	for _, from := range append(jobStates, "", "unheard of") {
		for _, to := range append(jobStates, "", "unheard of") {
			want := strings.Contains(jobMoves, "\n"+string(from)+" → "+string(to)+"\n")
			if got := from.CanMove(to); got != want {
				t.Errorf("%q may become %q: %v, want %v", from, to, got, want)
			}
			now := time.Now()
			job := spare.Job{ID: "j", State: from}
			switch err := job.Move(to, now); {
			case want && (err != nil || job.State != to || !job.Times[to].Equal(now)):
				t.Errorf("%q → %q: %v, state %q since %v", from, to, err, job.State, job.Times[to])
			case !want && (err == nil || job.State != from || len(job.Times) != 0):
				t.Errorf("%q → %q: %v, state %q, times %v", from, to, err, job.State, job.Times)
			}
		}
	}
}

func TestJob_FinalStatesAreThoseNothingLeaves(t *testing.T) {
	final := map[spare.JobState]bool{spare.JobComplete: true, spare.JobFailed: true, spare.JobAborted: true}
	for _, s := range jobStates {
		if s.Final() != final[s] {
			t.Errorf("%s is final: %v, want %v", s, s.Final(), final[s])
		}
	}
	if spare.JobState("").Final() {
		t.Error("no state at all counts as final")
	}
}

func TestJob_EveryStateBeforeTheEndCanBeAborted(t *testing.T) {
	for _, s := range jobStates {
		if !s.Final() && !s.CanMove(spare.JobAborted) {
			t.Errorf("%s cannot be aborted", s)
		}
	}
}
