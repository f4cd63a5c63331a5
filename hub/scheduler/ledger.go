package scheduler

import "github.com/spare-compute/spare"

// A Ledger batch is everything one turn changed. It goes to the store in one
// transaction, and the turn's effects leave only after that. Each row is whole: it
// replaces the one with the same key.
type Ledger struct {
	Tasks    []spare.Task
	Attempts []spare.Attempt
	Records  []spare.Record
	// Closed names jobs that ended early: after the rows above are written, every task
	// of theirs that is still open becomes cancelled.
	Closed []spare.JobID
}

// Empty reports whether the batch changes nothing.
func (l Ledger) Empty() bool {
	return len(l.Tasks) == 0 && len(l.Attempts) == 0 && len(l.Records) == 0 && len(l.Closed) == 0
}
