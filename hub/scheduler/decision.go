package scheduler

import (
	"time"

	"github.com/spare-compute/spare"
)

// A Turn is what the core decided since the last one. Ledger goes to the store first;
// the decisions are carried out, in their order, once it is durable.
type Turn struct {
	Ledger    Ledger
	Decisions []Decision
	Wake      time.Time // call Turn again no later than this; zero = only after the next event
}

// A Decision is something the hub is to do. The set is closed: the types of this file.
type Decision interface{ decision() }

// Leased is one lease: an attempt and the task it is an attempt at.
type Leased struct {
	Attempt spare.Attempt
	Task    spare.Task
}

// Grant leases tasks to a node.
type Grant struct {
	Node   spare.NodeID
	Leases []Leased
}

// Cancel tells a node to stop attempts and drop what they made.
type Cancel struct {
	Node     spare.NodeID
	Attempts []spare.AttemptID
	Reason   string
}

// Silent says that a connected node was not heard for a lease's time while it held one.
// What it held is queued again, and still taken from it while the tasks are open; it gets
// nothing more until it is heard.
type Silent struct {
	Node spare.NodeID
}

// Ack answers a report. The node may forget the result either way; Reason says why it
// was not taken.
type Ack struct {
	Node    spare.NodeID
	Attempt spare.AttemptID
	Taken   bool
	Reason  string
}

// TaskDone says that a task's result was accepted.
type TaskDone struct {
	Job     spare.JobID
	Task    spare.TaskID
	Chunk   int
	Attempt spare.AttemptID
	Node    spare.NodeID
	Done    int // of the job, with this one
	Total   int // of the job, -1 while its input is being cut
}

// Retried says that an attempt ended without a result and that its task will be tried
// again, not before NotBefore.
type Retried struct {
	Job       spare.JobID
	Task      spare.TaskID
	Chunk     int
	Attempt   spare.AttemptID
	Node      spare.NodeID
	Outcome   spare.Outcome
	ExitCode  int
	Message   string
	NotBefore time.Time
}

// JobDone says that every task of a job is done. The core forgets the job.
type JobDone struct {
	Job spare.JobID
}

// JobFailed says that a task is judged to fail wherever it runs. Sentence says which
// chunk, how it ended and the App's last words. The core has closed the job and forgets
// it.
type JobFailed struct {
	Job      spare.JobID
	Task     spare.TaskID
	Chunk    int
	Sentence string
}

// Refill asks for a job's open tasks (ready or running) from chunk From on, at most
// Limit, by a Refilled event with the same From and Limit.
type Refill struct {
	Job   spare.JobID
	From  int
	Limit int
}

func (Grant) decision()     {}
func (Cancel) decision()    {}
func (Silent) decision()    {}
func (Ack) decision()       {}
func (TaskDone) decision()  {}
func (Retried) decision()   {}
func (JobDone) decision()   {}
func (JobFailed) decision() {}
func (Refill) decision()    {}
