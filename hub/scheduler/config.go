package scheduler

import "time"

// Config holds the core's few numbers. Zero values mean the defaults.
type Config struct {
	// Lease is how long an attempt lives without a heartbeat. Default 8 s: with a beat
	// every 2 s, three may be lost, and a silent node's work is queued within 10 s.
	Lease time.Duration
	// HeartbeatBusy is how often a node with leases beats. Default 2 s.
	HeartbeatBusy time.Duration
	// RestoreGrace is how long restored leases live after a restart. Default 30 s: nodes
	// redial within that.
	RestoreGrace time.Duration
	// ReportGrace is how long the lease of an attempt lives which a reconnecting node no
	// longer holds: a report of it may be on its way. Default 1 s.
	ReportGrace time.Duration
	// Overtime is how much longer than its task's time limit a lease may be kept: for
	// fetching and handing over, and for an owner's pauses of up to ten minutes each,
	// none of which count against that limit. Default 30 min.
	Overtime time.Duration
	// BackoffBase and BackoffMax bound the back-off: the n-th in a row is drawn evenly
	// from 0 to min(max, base·2ⁿ⁻¹). Defaults 1 s and 2 min.
	BackoffBase, BackoffMax time.Duration
	// AvoidFor is how long a task keeps away from nodes that failed it while others are
	// connected. Default 1 min.
	AvoidFor time.Duration
	// DefaultRetries is how many distinct nodes may fail a task before its job fails,
	// where the job does not say. Default 3.
	DefaultRetries int
	// LostNodes is how many distinct nodes may be lost with a task before its job fails.
	// Default 5.
	LostNodes int
	// Window is how many ready tasks of one job are held in memory. Default 4096.
	Window int
}

// maxWindows bounds the ready tasks of all jobs together: about 256 MiB.
const maxWindows = 1 << 18

func (c Config) withDefaults() Config {
	def := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	def(&c.Lease, 8*time.Second)
	def(&c.HeartbeatBusy, 2*time.Second)
	def(&c.RestoreGrace, 30*time.Second)
	def(&c.ReportGrace, time.Second)
	def(&c.Overtime, 30*time.Minute)
	def(&c.BackoffBase, time.Second)
	def(&c.BackoffMax, 2*time.Minute)
	def(&c.AvoidFor, time.Minute)
	count := func(n *int, v int) {
		if *n <= 0 {
			*n = v
		}
	}
	count(&c.DefaultRetries, 3)
	count(&c.LostNodes, 5)
	count(&c.Window, 4096)
	return c
}
