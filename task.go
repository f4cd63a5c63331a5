package spare

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// TaskID names a task: "<job uuid>.<chunk number>".
type TaskID string

// NewTaskID names the task of one chunk.
func NewTaskID(job JobID, chunk int) TaskID {
	return TaskID(string(job) + "." + strconv.Itoa(chunk))
}

// AttemptID names an attempt: "<task>.<attempt number>", counted from 1.
type AttemptID string

// NewAttemptID names a task's n-th attempt.
func NewAttemptID(task TaskID, n int) AttemptID {
	return AttemptID(string(task) + "." + strconv.Itoa(n))
}

// Task is the task an attempt belongs to, or "" if the name is malformed.
func (a AttemptID) Task() TaskID {
	i := strings.LastIndexByte(string(a), '.')
	if i < 0 {
		return ""
	}
	return TaskID(a[:i])
}

// TaskState is where a task is.
//
//	ready ─lease→ running ─accepted→ done
//	  ↑              │
//	  └─ any outcome that may be tried again; otherwise → failed
//	any open state ─ job ends → cancelled
//
// Back-off is a time before which a ready task is not leased, not a state.
type TaskState string

// The states of a task. Verifying is entered once results are compared.
const (
	TaskReady     TaskState = "ready"
	TaskRunning   TaskState = "running"
	TaskVerifying TaskState = "verifying"
	TaskDone      TaskState = "done"
	TaskFailed    TaskState = "failed"
	TaskCancelled TaskState = "cancelled"
)

// Final reports whether a task in state s will never move again.
func (s TaskState) Final() bool {
	return s == TaskDone || s == TaskFailed || s == TaskCancelled
}

// A Task is the work of one chunk.
type Task struct {
	ID        TaskID          `json:"id"`
	Job       JobID           `json:"job"`
	Chunk     int             `json:"chunk"` // 0…n-1
	State     TaskState       `json:"state"`
	Input     File            `json:"input"`
	Params    json.RawMessage `json:"params,omitempty"` // this chunk's own, laid over the plan's
	Attempts  int             `json:"attempts"`         // how many were started
	NotBefore time.Time       `json:"not_before"`       // back-off
	Result    *Result         `json:"result,omitempty"` // the accepted one
	Node      NodeID          `json:"node,omitempty"`   // whose result was accepted
	Error     string          `json:"error,omitempty"`
	Tries     []Try           `json:"tries,omitempty"` // attempts that ended without an accepted result
}

// A Try is what a task remembers of an attempt that failed: enough to place blame, to
// keep away from the node, and to take its late report.
type Try struct {
	Number  int       `json:"number"`
	Node    NodeID    `json:"node"`
	Outcome Outcome   `json:"outcome"`
	Granted time.Time `json:"granted"`
	Ended   time.Time `json:"ended"`
	Counts  bool      `json:"counts,omitempty"` // against the task

	Checkpoint *File `json:"checkpoint,omitempty"` // what it left of itself when it was handed back
}

// Checkpoint is what the latest attempt that left anything of itself did leave, and that
// attempt's number; nil and 0 if there is none.
func (t Task) Checkpoint() (*File, int) {
	var left *File
	number := 0
	for _, try := range t.Tries {
		if try.Checkpoint != nil && try.Number > number {
			left, number = try.Checkpoint, try.Number
		}
	}
	return left, number
}

// An Outcome is how an attempt ended. It ends in exactly one.
type Outcome string

// The outcomes. See Blames for which count against a task.
const (
	Succeeded     Outcome = "succeeded"
	AppFailed     Outcome = "app_failed"
	TimedOut      Outcome = "timed_out"
	OutOfMemory   Outcome = "out_of_memory"
	OutOfDisk     Outcome = "out_of_disk"
	SandboxFailed Outcome = "sandbox_failed"
	FetchFailed   Outcome = "fetch_failed"
	UploadFailed  Outcome = "upload_failed"
	Preempted     Outcome = "preempted"
	Lost          Outcome = "lost"
	Cancelled     Outcome = "cancelled"
	Rejected      Outcome = "rejected"
)

// Outcomes lists them all, in the order of the wire's enumeration (from 1).
var Outcomes = []Outcome{
	Succeeded, AppFailed, TimedOut, OutOfMemory, OutOfDisk, SandboxFailed,
	FetchFailed, UploadFailed, Preempted, Lost, Cancelled, Rejected,
}

// BlamesTask reports whether o, seen on distinct nodes, counts against the task.
func (o Outcome) BlamesTask() bool {
	return o == AppFailed || o == TimedOut || o == OutOfMemory || o == Rejected
}

// An Attempt is one try of a task by one node, under a lease.
type Attempt struct {
	ID       AttemptID  `json:"id"`
	Task     TaskID     `json:"task"`
	Job      JobID      `json:"job"`
	Chunk    int        `json:"chunk"`
	Node     NodeID     `json:"node"`
	Number   int        `json:"number"`
	Granted  time.Time  `json:"granted"`
	Expires  time.Time  `json:"expires"`
	Ended    *time.Time `json:"ended,omitempty"`
	Outcome  Outcome    `json:"outcome,omitempty"` // "" while it lives
	ExitCode int        `json:"exit_code,omitempty"`
	Message  string     `json:"message,omitempty"` // a sentence on what happened
	Log      string     `json:"log,omitempty"`     // the tail, at most 64 KiB
	Usage    Usage      `json:"usage"`
	Result   *Result    `json:"result,omitempty"`
}

// Usage is what an attempt took.
type Usage struct {
	Wall       time.Duration `json:"wall"`
	CPU        time.Duration `json:"cpu"`
	PeakMemory int64         `json:"peak_memory"` // bytes
	Written    int64         `json:"written"`     // bytes
}

// A Result is what an attempt made: its folder packed as one blob.
type Result struct {
	Blob    File   `json:"blob"`
	Content Digest `json:"content"` // of the files, however they are packed
	Files   int    `json:"files"`
	Bytes   int64  `json:"bytes"` // unpacked
}

// Reason is the typed answer to "why does this wait": a code that programs
// switch on and a sentence for people.
type Reason struct {
	Code   string `json:"code"`
	Detail string `json:"detail"`
}

// The codes of a Reason.
const (
	ReasonNoNodes         = "no_node_connected"
	ReasonNoNodeInPool    = "no_node_in_pool"
	ReasonNoPlatform      = "no_node_with_platform"
	ReasonNeedsTool       = "needs_tool"
	ReasonNeedsCPU        = "needs_cpu"
	ReasonNeedsMemory     = "needs_memory"
	ReasonNeedsDisk       = "needs_disk"
	ReasonNeedsGPU        = "needs_gpu"
	ReasonNeedsOS         = "needs_os"
	ReasonNeedsArch       = "needs_arch"
	ReasonAllBusy         = "all_eligible_busy"
	ReasonBackingOff      = "backing_off"
	ReasonAvoidingNode    = "avoiding_node_that_failed"
	ReasonNodePaused      = "node_paused"
	ReasonNoWork          = "no_work"
	ReasonWorking         = "working"
	ReasonNodeUnreachable = "node_unreachable"
)

func (r Reason) String() string {
	if r.Detail == "" {
		return r.Code
	}
	return fmt.Sprintf("%s: %s", r.Code, r.Detail)
}
