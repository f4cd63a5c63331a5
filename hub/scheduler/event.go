package scheduler

import (
	"time"

	"github.com/spare-compute/spare"
)

// An Event is something that happened. The set is closed: the types of this file.
type Event interface{ event() }

// JobOpened brings a job whose tasks may run from now on: after its partition began, or
// after a restart. Chunks and Done say what the store already holds of it; the core
// asks for those tasks by Refill decisions.
type JobOpened struct {
	Job        spare.JobID
	App        string // App name: records and back-off are kept by it
	Needs      spare.Requirements
	Around     spare.Environment // the zero value asks for nothing
	Pool       string            // "" = any pool
	Owner      string
	MaxRetries int           // failures on distinct nodes that end the job; 0 = Config.DefaultRetries
	Timeout    time.Duration // of one task, as its node enforces it; 0 = none is known
	Fresh      bool          // no attempt at any of its tasks was ever granted
	Total      int           // chunks in all, or -1 while the input is still being cut
	Chunks     int           // chunks already in the store, numbered from 0
	Done       int           // of these, how many are done
}

// TasksAdded says that the partition made these tasks and that the store has them. They
// are in chunk order and follow the job's earlier ones. What does not fit the window is
// left in the store, and the core asks for it later.
type TasksAdded struct {
	Job   spare.JobID
	Tasks []spare.Task
}

// Refilled answers a Refill decision: the open tasks (ready or running) from chunk From
// on, in chunk order, at most the Limit that was asked for. Fewer than Limit says that
// there are no more.
type Refilled struct {
	Job   spare.JobID
	From  int
	Limit int
	Tasks []spare.Task
}

// JobSealed says that a job's input is cut: it has Total chunks.
type JobSealed struct {
	Job   spare.JobID
	Total int
}

// JobClosed ends a job from outside: aborted, failed in another stage, or deleted. Its
// attempts are cancelled, its open tasks too.
type JobClosed struct {
	Job    spare.JobID
	Reason string
}

// AttemptsRestored brings the attempts without an outcome that the ledger held at start,
// with the tasks they belong to. Their leases run for Config.RestoreGrace, so that nodes
// which still work find back.
type AttemptsRestored struct {
	Attempts []spare.Attempt
	Tasks    []spare.Task
}

// RecordsRestored brings the nodes' records the ledger held at start.
type RecordsRestored struct {
	Records []spare.Record
}

// NodeUp says that a node is connected, and which attempts it still holds. A second
// NodeUp without a NodeDown between is a reconnect.
type NodeUp struct {
	Node spare.Node
	Held []spare.AttemptID
}

// NodeDown says that a node's session ended. Its leases go on until they expire.
type NodeDown struct {
	Node spare.NodeID
}

// NodeChanged brings a connected node's new device report, state or pool.
type NodeChanged struct {
	Node spare.Node
}

// Heartbeat renews the leases of the attempts it names.
type Heartbeat struct {
	Node     spare.NodeID
	Attempts []spare.AttemptID
}

// Wanted replaces a node's earlier want: how many more leases it takes now, to run at
// once and to fetch the input of meanwhile.
type Wanted struct {
	Node          spare.NodeID
	Run, Prefetch int
}

// Reported says how an attempt ended. A success carries its Result, which the hub
// already has in its blob store.
type Reported struct {
	Node     spare.NodeID
	Attempt  spare.AttemptID
	Outcome  spare.Outcome
	ExitCode int
	Message  string
	Log      string // the tail, at most 64 KiB
	Usage    spare.Usage
	Result   *spare.Result

	Checkpoint *spare.File // of an attempt that is handed back, if it left one
}

func (JobOpened) event()        {}
func (TasksAdded) event()       {}
func (Refilled) event()         {}
func (JobSealed) event()        {}
func (JobClosed) event()        {}
func (AttemptsRestored) event() {}
func (RecordsRestored) event()  {}
func (NodeUp) event()           {}
func (NodeDown) event()         {}
func (NodeChanged) event()      {}
func (Heartbeat) event()        {}
func (Wanted) event()           {}
func (Reported) event()         {}
