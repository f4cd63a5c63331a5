package spare

import (
	"encoding/json"
	"fmt"
	"time"
)

// JobID is a job's uuid.
type JobID string

// JobState is where a job is on its way.
//
//	draft ─run→ partitioning ─→ running ─→ assembling ─→ complete
//	  │               │            │            │
//	  └───────────────┴─ abort/fail at any time ┴─→ aborted | failed
type JobState string

// The states of a job. The last three are final.
const (
	JobDraft        JobState = "draft"
	JobPartitioning JobState = "partitioning"
	JobRunning      JobState = "running"
	JobAssembling   JobState = "assembling"
	JobComplete     JobState = "complete"
	JobFailed       JobState = "failed"
	JobAborted      JobState = "aborted"
)

// jobMoves is the whole state machine: from each state, where a job may go.
var jobMoves = map[JobState][]JobState{
	JobDraft:        {JobPartitioning, JobAborted},
	JobPartitioning: {JobRunning, JobFailed, JobAborted},
	JobRunning:      {JobAssembling, JobFailed, JobAborted},
	JobAssembling:   {JobComplete, JobFailed, JobAborted},
	JobComplete:     {},
	JobFailed:       {},
	JobAborted:      {},
}

// Final reports whether a job in state s will never move again.
func (s JobState) Final() bool { return s != "" && len(jobMoves[s]) == 0 }

// CanMove reports whether a job may go from s to next.
func (s JobState) CanMove(next JobState) bool {
	for _, m := range jobMoves[s] {
		if m == next {
			return true
		}
	}
	return false
}

// A Job is one input put through a template.
type Job struct {
	ID          JobID                  `json:"id"`
	Name        string                 `json:"name"`
	Description string                 `json:"description,omitempty"`
	Owner       string                 `json:"owner"`
	Template    string                 `json:"template"`
	Source      DataPoint              `json:"source"`
	Destination DataPoint              `json:"destination"`
	Params      Params                 `json:"params"`
	Config      JobConfig              `json:"config"`
	State       JobState               `json:"state"`
	Times       map[JobState]time.Time `json:"times"`           // when each state was entered
	Error       string                 `json:"error,omitempty"` // why it failed: stage, chunk, cause, last log lines
	Input       *File                  `json:"input,omitempty"` // the source once it is in the blob store
	Plan        *Plan                  `json:"plan,omitempty"`  // pinned when run
	Chunks      int                    `json:"chunks"`
	Done        int                    `json:"done"`
	Notes       json.RawMessage        `json:"notes,omitempty"` // what the partition tells the assembler
	Results     []File                 `json:"results,omitempty"`
	Summary     Summary                `json:"summary,omitempty"`
	CreatedAt   time.Time              `json:"created_at"`
}

// Move takes the job to next, noting when. It refuses moves the table does not allow.
func (j *Job) Move(next JobState, now time.Time) error {
	if !j.State.CanMove(next) {
		return fmt.Errorf("job %s is %s and cannot become %s", j.ID, j.State, next)
	}
	j.State = next
	if j.Times == nil {
		j.Times = map[JobState]time.Time{}
	}
	j.Times[next] = now
	return nil
}

// Summary is what the assembler found when it checked the output, for people and tests.
type Summary map[string]any

// File is a named piece of content in the blob store.
type File struct {
	Name   string `json:"name"` // slash-separated, relative
	Digest Digest `json:"digest"`
	Size   int64  `json:"size"` // bytes
	// Inline is the content itself where it is small enough to travel and be kept with
	// whatever names it; such a file is in no blob store.
	Inline []byte `json:"inline,omitempty"`
}

// InlineLimit is the size up to which content is kept in the ledger instead of the blob
// store: a row is written with every change of its task, so it is far below what the
// wire carries inline.
const InlineLimit = 4 << 10

// DataPoint is where a job's input comes from or its output goes.
type DataPoint struct {
	Descriptor string            `json:"dataSourceDescriptor"` // "file", "url", "bucket", "bypass", …
	Params     map[string]string `json:"params,omitempty"`
}

// Params are a job's parameters. Data is the older era's App parameters, App the
// newer one's; they mean the same and only one may be set.
type Params struct {
	Preset      string          `json:"preset,omitempty"`
	Data        json.RawMessage `json:"data,omitempty"`
	Partitioner json.RawMessage `json:"partitioner,omitempty"`
	App         json.RawMessage `json:"app,omitempty"`
	Assembler   json.RawMessage `json:"assembler,omitempty"`
}

// JobConfig holds the limits a submitter may set. Zero means the default.
type JobConfig struct {
	TaskTimeout    int  `json:"taskTimeout,omitempty"`    // seconds one attempt may run
	JobTimeout     int  `json:"jobTimeout,omitempty"`     // seconds from run to complete
	MaxTaskRetries int  `json:"maxTaskRetries,omitempty"` // distinct nodes that may fail a chunk
	IsTestJob      bool `json:"isTestJob,omitempty"`
}

// A Plan is a job's template with every choice made: what a later push cannot change.
type Plan struct {
	App          App             `json:"app"`
	Needs        Requirements    `json:"needs"` // the App's, and what the parameters ask (an encoder)
	Pool         string          `json:"pool,omitempty"`
	Partitioner  string          `json:"partitioner"`
	PartitionCfg json.RawMessage `json:"partition_config"`
	Assembler    string          `json:"assembler"`
	AssembleCfg  json.RawMessage `json:"assemble_config"`
	AppParams    json.RawMessage `json:"app_params"` // preset and job merged, never empty
	TaskTimeout  time.Duration   `json:"task_timeout"`
	JobTimeout   time.Duration   `json:"job_timeout"`
	MaxRetries   int             `json:"max_retries"`
}
