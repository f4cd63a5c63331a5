package work

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/protocol/pb"
)

// greedy is an App that takes all it can get of everything: it forks until that is refused,
// then all of them compute, some print, and after a second they write files. Threads count
// like processes and are quicker made.
const greedy = `
import os, threading, time
state = os.environ["CHECKPOINT_DIR"]
if os.fork() == 0:
    threading.stack_size(64 << 10)
    for _ in range(768): threading.Thread(target=time.sleep, args=(3600,), daemon=True).start()
    time.sleep(3600)
wait, go = os.pipe()
n, line = 0, b"more of the same\n" * 1000
try:
    while True:
        n += 1
        if os.fork() == 0:
            os.close(go)
            os.read(wait, 1) # or the forking would have to wait its turn
            break
except OSError:
    open(os.path.join(state, "count"), "w").write(str(n))
    os.close(go)
end = time.monotonic() + 1
while True:
    if n % 10 == 0: os.write(1, line)
    if time.monotonic() > end:
        with open(os.path.join(state, "fill%d" % n), "ab") as f: f.write(bytes(1 << 20))
`

// TestExecutor_AGreedyAppDoesNotStarveTheNode: leases are renewed by heartbeats, and a
// runner that is too busy for them loses its work (actions/runner).
func TestExecutor_AGreedyAppDoesNotStarveTheNode(t *testing.T) {
	b := newBench(t)
	b.e.SetLimits(Limits{Cores: 1, Disk: 64 << 20}, "")
	l := b.lease(0, greedy)
	l.TimeoutS = 15
	b.desk.Grant([]*pb.Lease{l})

	const every, most = 50 * time.Millisecond, 2 * time.Second
	stop := make(chan struct{})
	var beating sync.WaitGroup
	beats, ran, longest := 0, 0, time.Duration(0)
	beating.Go(func() { // as the link does
		ticker := time.NewTicker(every)
		defer ticker.Stop()
		for last := time.Now(); ; beats++ {
			held, progress := b.desk.Held(), b.desk.Progress()
			b.desk.Want()
			b.e.Count()
			longest = max(longest, time.Since(last))
			last = time.Now()
			if len(held) != 1 || held[0] != spare.AttemptID(l.Attempt) {
				t.Errorf("a heartbeat names %v", held)
				return
			}
			ran += len(progress)
			select {
			case <-ticker.C:
			case <-stop:
				return
			}
		}
	})
	ended := b.report(l)
	close(stop)
	beating.Wait()
	t.Logf("%d heartbeats, %d while it ran, at most %v apart; %s of them; ended as %v: %s", beats, ran, longest, b.state(l), ended.Outcome, ended.Message)
	if longest > most {
		t.Errorf("%v passed between two heartbeats", longest)
	}
	if ran < 10 {
		t.Errorf("only %d heartbeats told of its progress", ran)
	}
	switch {
	case ended.Outcome == pb.Outcome_OUTCOME_TIMED_OUT:
		t.Log("on this busy machine its time was over before its files were counted")
	case ended.Outcome != pb.Outcome_OUTCOME_APP_FAILED || !strings.Contains(ended.Message, "wrote more than it may"):
		t.Errorf("ended = %v, want it stopped at its disk limit", ended)
	case b.state(l) == "":
		t.Error("it was never refused a process")
	}
	b.desk.Accepted([]*pb.Verdict{{Attempt: l.Attempt, Taken: true}})
	for _, folder := range []string{"checkpoints", "work"} {
		if left, _ := os.ReadDir(filepath.Join(b.dir, folder)); len(left) != 0 {
			t.Errorf("left in %s: %v", folder, left)
		}
	}
}
