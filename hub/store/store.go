// Package store says what the hub keeps and promises to keep: the catalogue, jobs,
// the ledger of tasks and attempts, nodes and keys. It holds the contract only; each
// folder beside it is one database, and storetest is the conformance suite that all
// of them pass. Every call is one transaction: durable when it returns, or not done.
package store

import (
	"context"
	"errors"
	"time"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/hub/scheduler"
)

// Errors a caller must tell apart.
var (
	ErrNotFound = errors.New("not found")
	ErrConflict = errors.New("conflict")
	// ErrNewer says that the data was written by a later release than this program.
	ErrNewer = errors.New("data written by a newer version of Spare")
	// ErrFull says that the disk has no room left; nothing of the call was kept.
	ErrFull = errors.New("disk full")
)

// A Store is a hub's memory.
type Store interface {
	Catalogue
	Images
	Jobs
	Ledger
	Nodes
	Keys
	Close() error
}

// Catalogue keeps Apps, engines, templates, schemas and presets.
type Catalogue interface {
	// PutApp stores a push of name@version. The revision is one above the last of
	// that key; ID, CreatedAt and Active carry over from it.
	PutApp(ctx context.Context, app spare.App) (spare.App, error)
	// App returns the newest revision of an exact kind, name and version.
	App(ctx context.Context, kind spare.Kind, name, version string) (spare.App, error)
	// Apps returns the newest revision of every name and version of a kind, by name.
	Apps(ctx context.Context, kind spare.Kind) ([]spare.App, error)
	// SetActive changes whether a version takes jobs.
	SetActive(ctx context.Context, kind spare.Kind, name, version string, active bool) error

	PutTemplate(ctx context.Context, t spare.Template) (spare.Template, error)
	Template(ctx context.Context, id string) (spare.Template, error)
	Templates(ctx context.Context) ([]spare.Template, error)

	PutSchema(ctx context.Context, s spare.Schema) error
	Schema(ctx context.Context, id, version string) (spare.Schema, error)
	Schemas(ctx context.Context) ([]spare.Schema, error)

	PutPreset(ctx context.Context, p spare.Preset) error
	Presets(ctx context.Context, template string) ([]spare.Preset, error)
}

// An Image is an OCI image that the hub holds: all its parts are blobs.
type Image struct {
	Name      string         `json:"name"`   // in full, "registry/repository:tag"
	Digest    spare.Digest   `json:"digest"` // of its manifest or index
	Size      int64          `json:"size"`   // bytes of all parts
	Parts     []spare.Digest `json:"parts"`  // all blobs it is made of, the manifest too
	Platforms []string       `json:"platforms"`
	Owner     string         `json:"owner"`
	PushedAt  time.Time      `json:"pushed_at"`
}

// Images keeps which images the hub holds. What a name meant before stays until it is
// removed: Apps that were pinned to it go on.
type Images interface {
	// PutImage stores a push. The same name and digest again takes its place.
	PutImage(ctx context.Context, im Image) error
	// Images returns all by name, of each name the last push first.
	Images(ctx context.Context) ([]Image, error)
	// DeleteImage removes what a name means by one digest.
	DeleteImage(ctx context.Context, name string, digest spare.Digest) error
}

// JobQuery selects jobs. Zero values select all.
type JobQuery struct {
	Owner  string
	States []spare.JobState
	Offset int
	Limit  int // 0 = no limit
}

// Jobs keeps jobs and the tasks they were cut into.
type Jobs interface {
	CreateJob(ctx context.Context, j spare.Job) error // ErrConflict if the id is taken
	Job(ctx context.Context, id spare.JobID) (spare.Job, error)
	// ListJobs returns the newest first and how many there are in all.
	ListJobs(ctx context.Context, q JobQuery) ([]spare.Job, int, error)
	// UpdateJob reads, changes and writes a job in one transaction. An error from
	// change leaves the job as it was and is returned.
	UpdateJob(ctx context.Context, id spare.JobID, change func(*spare.Job) error) (spare.Job, error)
	// DeleteJob removes a job with its tasks and attempts.
	DeleteJob(ctx context.Context, id spare.JobID) error

	// ReplaceTasks removes the job's tasks and attempts (of an interrupted partition)
	// and starts it again with tasks; AddTasks appends.
	ReplaceTasks(ctx context.Context, job spare.JobID, tasks []spare.Task) error
	AddTasks(ctx context.Context, tasks []spare.Task) error
	// Tasks returns a job's tasks from chunk number from on, at most limit (0 = all),
	// in chunk order; states, when given, selects.
	Tasks(ctx context.Context, job spare.JobID, from, limit int, states ...spare.TaskState) ([]spare.Task, error)
	// CountTasks counts a job's tasks by state.
	CountTasks(ctx context.Context, job spare.JobID) (map[spare.TaskState]int, error)
	// Attempts returns a job's attempts in the order they were granted.
	Attempts(ctx context.Context, job spare.JobID) ([]spare.Attempt, error)
	// CountAttempts counts a job's attempts by outcome; "" are those that live.
	CountAttempts(ctx context.Context, job spare.JobID) (map[spare.Outcome]int, error)
	// LiveAttempts returns the attempts without an outcome of every job.
	LiveAttempts(ctx context.Context) ([]spare.Attempt, error)
	// References lists every blob digest that jobs, tasks, images and the catalogue name;
	// content that is kept inline may be left out.
	References(ctx context.Context) (map[spare.Digest]struct{}, error)
}

// Ledger takes the scheduler's turns.
type Ledger interface {
	// Commit writes one turn. Rows of jobs deleted meanwhile are dropped in silence.
	Commit(ctx context.Context, batch scheduler.Ledger) error
	Records(ctx context.Context) ([]spare.Record, error)
}

// A Token lets nodes enrol. Only the hash of its secret is kept.
type Token struct {
	Hash    spare.Digest `json:"hash"`
	Pool    string       `json:"pool"`
	Owner   string       `json:"owner"`
	Uses    int          `json:"uses"` // left
	Created time.Time    `json:"created"`
	Expires time.Time    `json:"expires"`
}

// Why a token is refused.
var (
	ErrTokenExpired = errors.New("enrolment token has expired")
	ErrTokenUsed    = errors.New("enrolment token is used up")
)

// Nodes keeps the nodes a hub has admitted, and the tokens that admit new ones.
type Nodes interface {
	PutNode(ctx context.Context, n spare.Node) error
	Node(ctx context.Context, id spare.NodeID) (spare.Node, error)
	Nodes(ctx context.Context) ([]spare.Node, error)
	DeleteNode(ctx context.Context, id spare.NodeID) error

	PutToken(ctx context.Context, t Token) error
	// Enrol takes one use of the token with this hash and stores the node with the
	// token's pool and owner, in one transaction. ErrNotFound, ErrTokenExpired or
	// ErrTokenUsed say why not. A node that is known already costs no use.
	Enrol(ctx context.Context, hash spare.Digest, n spare.Node, now time.Time) (spare.Node, error)
}

// Role is what a key's holder may do.
type Role string

// The roles, from most to least.
const (
	RoleAdmin       Role = "admin"
	RoleSubmitter   Role = "submitter"
	RoleContributor Role = "contributor"
	RoleViewer      Role = "viewer"
)

// Key is an API key. Only the hash of its secret is kept.
type Key struct {
	ID      string       `json:"id"`
	Name    string       `json:"name"`
	Hash    spare.Digest `json:"hash"`
	Owner   string       `json:"owner"`
	Role    Role         `json:"role"`
	Issued  time.Time    `json:"issued"`
	Expires *time.Time   `json:"expires,omitempty"`
	Revoked bool         `json:"revoked"`
}

// Keys keeps API keys, and the hub's own secrets by name.
type Keys interface {
	PutKey(ctx context.Context, k Key) error
	KeyByHash(ctx context.Context, hash spare.Digest) (Key, error)
	Keys(ctx context.Context) ([]Key, error)
	// Secret returns the named secret, storing fresh if there is none yet.
	Secret(ctx context.Context, name string, fresh []byte) ([]byte, error)
}
