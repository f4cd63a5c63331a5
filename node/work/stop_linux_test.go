package work

import (
	"testing"
	"time"

	"github.com/spare-compute/spare/protocol/pb"
)

// TestExecutor_AStopHasOneDeadline: what does not end in the time that a service manager
// gives would be killed in the middle.
func TestExecutor_AStopHasOneDeadline(t *testing.T) {
	const stop = 2 * time.Second
	for name, c := range map[string]struct {
		program string
		down    bool // the hub is not reached
	}{
		"packing takes too long": {hoards, false},
		"the upload does": {`
import os, time
open(os.path.join(os.environ["CHECKPOINT_DIR"], "big"), "wb").write(os.urandom(1 << 20))
open(os.path.join(os.environ["CHECKPOINT_DIR"], "count"), "w").write("1")
time.sleep(3600)
`, true},
		"the App does": {`
import os, signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
open(os.path.join(os.environ["CHECKPOINT_DIR"], "count"), "w").write("1")
time.sleep(3600)
`, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			b.e.cfg.Stop = stop
			l := b.lease(0, c.program)
			b.desk.Grant([]*pb.Lease{l})
			b.await("it has a checkpoint", func() bool { return b.state(l) != "" })
			if c.down {
				b.hub.mu.Lock()
				b.hub.down = make(chan struct{})
				b.hub.mu.Unlock()
			}
			began := time.Now()
			b.stop()
			if took := time.Since(began); took > stop+stopSlack+3*time.Second {
				t.Errorf("it took %v to stop", took)
			}
			ends := b.desk.Reports() // what the links still tell the hubs
			if len(ends) != 1 || ends[0].Outcome != pb.Outcome_OUTCOME_PREEMPTED {
				t.Fatalf("ends = %v", ends)
			}
			ended := ends[0]
			if name == "the App does" {
				return // it had a checkpoint, and time to pack it
			}
			if ended.Checkpoint != nil {
				t.Errorf("ended = %v, want it handed back without its checkpoint", ended)
			}
			b.desk.Accepted([]*pb.Verdict{{Attempt: l.Attempt, Taken: true}})
			if b.state(l) != "1" {
				t.Error("the only copy of its checkpoint is gone")
			}
		})
	}
}
