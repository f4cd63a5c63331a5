// Package scheduler decides which chunk runs on which node, when it is run again and
// when a result is believed. It is a pure core: events go in with their time, and each
// turn gives back the ledger rows that changed and the decisions that follow. It owns
// leases, retries, blame, fair shares and the nodes' records.
//
// It never starts a goroutine, reads a clock, does input or output, or uses randomness
// other than its seed. The dispatcher drives it from one goroutine, commits a turn's
// ledger and only then lets the turn's decisions out; tests and simulations drive the
// same core.
//
// The order at start: RecordsRestored, JobOpened for every running job, then
// AttemptsRestored, and only then the nodes.
package scheduler
