// Package api is the hub's HTTP interface: it turns requests under /v1 into calls on
// the store, the catalogue and the pipeline, and their answers into the contract's JSON.
// It owns paths, aliases, authentication, roles, signed links, resumable uploads and
// error bodies. It decides nothing about scheduling and never touches a node. The hub
// calls New once and serves what it returns; the program spare and any HTTP client of
// the contract are on the other side.
package api

import (
	"context"
	"log/slog"
	"time"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/hub/catalog"
	"github.com/spare-compute/spare/hub/events"
	"github.com/spare-compute/spare/hub/store"
)

// Config is what the handlers stand on.
type Config struct {
	Store   store.Store
	Blobs   Blobs
	Catalog *catalog.Catalog
	Images  *catalog.Shelf
	Jobs    Jobs
	Nodes   Nodes
	Sources Sources
	Events  *events.Bus
	Secret  []byte       // signs links and tokens; at least 32 bytes, kept over restarts
	Uploads string       // existing folder for inputs that are still arriving
	Ready   func() error // why the hub cannot serve yet, or nil
	Log     *slog.Logger
	HubName string

	MaxUpload int64                   // bytes of one input; 0 = 1 TiB
	Room      func(bytes int64) error // why the disk does not take so much more, or nil; may be nil itself
	Now       func() time.Time        // nil = time.Now
}

// Jobs moves jobs along. Each call is durable when it returns. Errors whose job does
// not exist match store.ErrNotFound; a move the job's state does not allow matches
// store.ErrConflict.
type Jobs interface {
	// Run pins the job's plan and starts it.
	Run(ctx context.Context, id spare.JobID) error
	// Abort ends a job that is under way.
	Abort(ctx context.Context, id spare.JobID) error
	// Delete removes a job and what only it used.
	Delete(ctx context.Context, id spare.JobID) error
	Progress(ctx context.Context, id spare.JobID) (Progress, error)
}

// Nodes are the machines the hub knows.
type Nodes interface {
	// List returns them with their present state and reason.
	List(ctx context.Context) ([]spare.Node, error)
	// Remove makes the hub forget one, which then needs a ticket to come back.
	// store.ErrNotFound says that there is none.
	Remove(ctx context.Context, id spare.NodeID) error
}

// Sources tells, without any traffic, why a data source cannot be served. The hub's
// datasource.Fetcher is one.
type Sources interface {
	Check(dp spare.DataPoint) error
}

// Blobs is where inputs go and results lie. hub/blob.Disk is one.
type Blobs interface {
	// PutFile takes the file at path into the store; path is gone afterwards.
	PutFile(ctx context.Context, path string) (spare.Digest, int64, error)
	// Path is the local file of a blob that the store holds.
	Path(d spare.Digest) string
}

// Progress is where a job is.
type Progress struct {
	Total    int              // chunks; -1 while the input is still being cut
	Ready    int              // chunks nobody works on
	Running  int              // chunks being worked on
	Done     int              // chunks with an accepted result
	Failed   int              // chunks given up
	Nodes    int              // distinct nodes at work on the job
	ETA      *time.Duration   // to the last chunk's end; nil while unknown
	Waiting  []Waiting        // why ready chunks wait
	Attempts []RunningAttempt // what runs now
	Retried  int              // attempts that did not succeed so far
}

// Waiting is one reason and how many chunks wait for it.
type Waiting struct {
	spare.Reason
	Tasks int
}

// RunningAttempt is one try of a chunk that is under way.
type RunningAttempt struct {
	Attempt  spare.AttemptID
	Chunk    int
	Node     spare.NodeID
	NodeName string
	Fraction *float64 // done, 0…1; nil where the App does not say
	Since    time.Time
}
