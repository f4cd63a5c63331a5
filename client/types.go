package client

import (
	"encoding/json"
	"time"

	"github.com/spare-compute/spare"
)

// The states of a job as the hub spells them.
const (
	StateNew          = "JOB_STATE_NEW"
	StatePartitioning = "JOB_STATE_PARTITIONING"
	StateRunning      = "JOB_STATE_RUNNING"
	StateAssembling   = "JOB_STATE_ASSEMBLING"
	StateComplete     = "JOB_STATE_COMPLETE"
	StateFailed       = "JOB_STATE_FAILED"
	StateAborted      = "JOB_STATE_ABORTED"
)

// Final reports whether a job in this state will never move again.
func Final(state string) bool {
	return state == StateComplete || state == StateFailed || state == StateAborted
}

// Job is what a program needs to know of a job; Raw is all that the hub said.
type Job struct {
	ID         string               `json:"id"`
	Name       string               `json:"name"`
	Template   string               `json:"templateId"`
	Owner      string               `json:"owner"`
	State      string               `json:"state"`
	Error      string               `json:"errorMessage"`
	Chunks     int                  `json:"numChunks"`
	ChunksDone int                  `json:"numChunksDone"`
	CreatedAt  time.Time            `json:"createdAt"`
	Times      map[string]time.Time `json:"stateTimestamps"`
	Duration   *float64             `json:"duration"` // seconds
	Source     *DataPoint           `json:"dataSource"`
	Summary    map[string]any       `json:"summary"`
	Raw        json.RawMessage      `json:"-"`
}

// UnmarshalJSON keeps the whole beside the parts.
func (j *Job) UnmarshalJSON(b []byte) error {
	type plain Job
	if err := json.Unmarshal(b, (*plain)(j)); err != nil {
		return err
	}
	j.Raw = append(json.RawMessage(nil), b...)
	return nil
}

// MarshalJSON writes what the hub said.
func (j Job) MarshalJSON() ([]byte, error) {
	if j.Raw != nil {
		return j.Raw, nil
	}
	type plain Job
	return json.Marshal(plain(j))
}

// DataPoint is where an input comes from.
type DataPoint struct {
	Descriptor string            `json:"dataSourceDescriptor"`
	Params     map[string]string `json:"params,omitempty"`
}

// NewJob is a job to create. ID, a uuid, makes creating it twice the same as once.
type NewJob struct {
	ID       string         `json:"jobId,omitempty"`
	Name     string         `json:"name,omitempty"`
	Template string         `json:"templateId"`
	Source   *DataPoint     `json:"dataSource,omitempty"`
	Params   map[string]any `json:"params,omitempty"`
	Config   map[string]any `json:"config,omitempty"`
}

// Progress is where a job is.
type Progress struct {
	JobID    string    `json:"jobId"`
	State    string    `json:"state"`
	Total    int       `json:"total"` // chunks; -1 while the input is still being cut
	Ready    int       `json:"ready"`
	Running  int       `json:"running"`
	Done     int       `json:"done"`
	Failed   int       `json:"failed"`
	Retried  int       `json:"retried"`
	Nodes    int       `json:"nodes"`
	ETA      *float64  `json:"etaSeconds"`
	Waiting  []Waiting `json:"waiting"`
	Attempts []Running `json:"attempts"`
	Error    string    `json:"errorMessage"`
}

// Waiting is one reason and how many chunks wait for it.
type Waiting struct {
	Code   string `json:"code"`
	Detail string `json:"detail"`
	Tasks  int    `json:"tasks"`
}

// Running is an attempt under way.
type Running struct {
	Attempt  spare.AttemptID `json:"attempt"`
	Chunk    int             `json:"chunk"`
	Node     spare.NodeID    `json:"node"`
	NodeName string          `json:"nodeName"`
	Fraction *float64        `json:"fraction"`
	Since    time.Time       `json:"since"`
}

// Why is what a job waits for.
type Why struct {
	JobID   string    `json:"jobId"`
	State   string    `json:"state"`
	Reasons []Waiting `json:"reasons"`
	Summary string    `json:"summary"`
}

// Result is one file that a job made.
type Result struct {
	Name   string       `json:"name"`
	Link   string       `json:"link"`
	Size   int64        `json:"size"`
	Digest spare.Digest `json:"digest"`
}

// LogLine is one line that a job's work printed.
type LogLine struct {
	Log       string    `json:"log"`
	Timestamp time.Time `json:"timestamp"`
	Level     string    `json:"level"`
	Container string    `json:"container"`
}

// Logs is what a job's stages and tasks printed.
type Logs struct {
	Partitioner []LogLine           `json:"partitioner"`
	Assembler   []LogLine           `json:"assembler"`
	Tasks       map[string]TaskLogs `json:"taskrunner"`
}

// TaskLogs are one task's.
type TaskLogs struct {
	Logs []LogLine `json:"logs"`
}

// App is a pushed App or engine.
type App struct {
	ID          string    `json:"id"`
	Name        string    `json:"name"`
	Version     string    `json:"version"`
	Tag         string    `json:"tag"`
	Type        string    `json:"type"`
	Owner       string    `json:"owner"`
	Status      string    `json:"status"`
	Description string    `json:"description"`
	Platform    string    `json:"platform"`
	Revision    string    `json:"revision"`
	Public      bool      `json:"isPublic"`
	UpdatedAt   time.Time `json:"updatedAt"`
	Link        string    `json:"link"`
	Warnings    []string  `json:"warnings,omitempty"`

	Signature *Signature `json:"signature,omitempty"` // its publisher's
}

// Template is a template in short.
type Template struct {
	ID          string `json:"id"`
	Description string `json:"description"`
	App         string `json:"app"`
	Partitioner string `json:"partitioner"`
	Assembler   string `json:"assembler"`
	Owner       string `json:"owner"`
	Public      bool   `json:"isPublic"`
}

// Key is an API key without its secret.
type Key struct {
	ID          string     `json:"id"`
	Name        string     `json:"name"`
	Owner       string     `json:"userId"`
	Role        string     `json:"role"`
	IssuedAt    time.Time  `json:"issuedAt"`
	ExpiresAt   *time.Time `json:"expiresAt"`
	Revoked     bool       `json:"revoked"`
	Fingerprint string     `json:"fingerprint"`
}

// Info is a hub's version.
type Info struct {
	Version struct {
		Major int    `json:"major"`
		Minor int    `json:"minor"`
		Tag   string `json:"tag"`
	} `json:"version"`
}
