package work

import (
	"archive/tar"
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/protocol/pb"
)

// counts is an App that goes on from its checkpoint and writes one at every step. It
// ends once it has been at work in two attempts.
const counts = `
import os, time
state = os.path.join(os.environ["CHECKPOINT_DIR"], "count")
n = int(open(state).read()) if os.path.exists(state) else 0
print("begins at", n, flush=True)
if n > 0:
    open(os.path.join(os.environ["TASK_RESULTS_DIR"], "out"), "w").write(str(n))
    raise SystemExit
while True:
    n += 1
    open(state + ".new", "w").write(str(n))
    os.replace(state + ".new", state)
    time.sleep(0.01)
`

// state is what lies in a task's checkpoint on the node.
func (b *bench) state(l *pb.Lease) string {
	raw, _ := os.ReadFile(filepath.Join(b.dir, "checkpoints", string(spare.AttemptID(l.Attempt).Task()), stateDir, "count"))
	return string(raw)
}

func next(l *pb.Lease, number, checkpoint string, left *pb.Blob) *pb.Lease {
	again := &pb.Lease{
		Attempt: strings.TrimSuffix(l.Attempt, ".1") + "." + number, Chunk: l.Chunk, TimeoutS: l.TimeoutS,
		App: l.App, Params: l.Params, Input: l.Input, JobName: l.JobName,
	}
	if left != nil {
		again.Checkpoint = &pb.Blob{Digest: left.Digest, Size: left.Size, Inline: left.Inline, Name: checkpoint}
	}
	return again
}

func TestExecutor_AHandedBackTaskGoesOnElsewhereFromItsCheckpoint(t *testing.T) {
	b := newBench(t)
	b.e.cfg.Patience = time.Millisecond
	l := b.lease(0, counts)
	b.desk.Grant([]*pb.Lease{l})
	b.await("it has a checkpoint", func() bool { return b.state(l) != "" })
	b.e.SetLimits(Limits{Cores: 1}, "the owner is back")
	ended := b.report(l)
	if ended.Outcome != pb.Outcome_OUTCOME_PREEMPTED || ended.Checkpoint == nil {
		t.Fatalf("ended = %v, want it handed back with its checkpoint", ended)
	}
	left := files(t, ended.Checkpoint.Inline)["count"]
	b.desk.Accepted([]*pb.Verdict{{Attempt: l.Attempt, Taken: true}})
	if b.state(l) != "" {
		t.Error("the node keeps the checkpoint that the hub has")
	}

	other := newBench(t)
	again := next(l, "2", "1", ended.Checkpoint)
	again.App.Bundle, again.Input = other.copyOf(b, l.App.Bundle), other.copyOf(b, l.Input)
	other.desk.Grant([]*pb.Lease{again})
	done := other.report(again)
	if done.Outcome != pb.Outcome_OUTCOME_SUCCEEDED || files(t, done.Result.Inline)["out"] != left {
		t.Errorf("ended = %v %q, want it to go on at %s", done, done.Log, left)
	}
}

// copyOf gives this bench's hub what another's has.
func (b *bench) copyOf(from *bench, blob *pb.Blob) *pb.Blob {
	return b.hub.add(from.hub.blobs[spare.Digest(blob.Digest)])
}

func TestExecutor_ALargeCheckpointIsUploadedBeforeItIsReported(t *testing.T) {
	b := newBench(t)
	b.e.cfg.Patience = time.Millisecond
	l := b.lease(0, `
import os, time
open(os.path.join(os.environ["CHECKPOINT_DIR"], "big"), "wb").write(os.urandom(1 << 20))
open(os.path.join(os.environ["CHECKPOINT_DIR"], "count"), "w").write("1")
time.sleep(3600)
`)
	b.desk.Grant([]*pb.Lease{l})
	b.await("it has a checkpoint", func() bool { return b.state(l) != "" })
	b.e.SetLimits(Limits{Cores: 1}, "the owner is back")
	left := b.report(l).Checkpoint
	if left == nil || len(left.Inline) > 0 || len(b.hub.blobs[spare.Digest(left.Digest)]) < 1<<20 {
		t.Fatalf("checkpoint %v", left)
	}
	if got := files(t, b.hub.blobs[spare.Digest(left.Digest)]); len(got["big"]) != 1<<20 {
		t.Errorf("the hub has %d bytes of it", len(got["big"]))
	}
}

func TestExecutor_ACheckpointSurvivesTheNode(t *testing.T) {
	b := newBench(t)
	l := b.lease(0, counts)
	b.desk.Grant([]*pb.Lease{l})
	b.await("it has a checkpoint", func() bool { return b.state(l) != "" })
	b.stop()
	// What the first attempt reported is lost with the connection, and the hub sends
	// what an earlier one had left.
	if err := os.RemoveAll(filepath.Join(b.dir, "results")); err != nil {
		t.Fatal(err)
	}
	kept := b.state(l)
	b.begin()
	again := next(l, "2", "0", b.hub.add([]byte("older")))
	b.desk.Grant([]*pb.Lease{again})
	done := b.report(again)
	if done.Outcome != pb.Outcome_OUTCOME_SUCCEEDED || files(t, done.Result.Inline)["out"] != kept {
		t.Errorf("ended = %v %q, want it to go on at %s", done, done.Log, kept)
	}
	b.desk.Accepted([]*pb.Verdict{{Attempt: again.Attempt, Taken: true}})
	if left, _ := os.ReadDir(filepath.Join(b.dir, "checkpoints")); len(left) != 0 {
		t.Errorf("left after the task is done: %v", left)
	}
}

func TestExecutor_ABadCheckpointIsNotRun(t *testing.T) {
	for name, bad := range map[string][]byte{
		"no archive":    []byte("not an archive"),
		"climbs out":    tarOf(t, "../../escaped", "x"),
		"absolute name": tarOf(t, "/etc/escaped", "x"),
	} {
		b := newBench(t)
		l := next(b.lease(0, echo), "2", "1", b.hub.add(bad))
		b.desk.Grant([]*pb.Lease{l})
		if ended := b.report(l); ended.Outcome == pb.Outcome_OUTCOME_SUCCEEDED || !strings.Contains(ended.Message, "checkpoint") {
			t.Errorf("%s: ended = %v", name, ended)
		}
		if _, err := os.Stat(filepath.Join(b.dir, "escaped")); err == nil {
			t.Errorf("%s: it wrote outside", name)
		}
	}
}

func TestExecutor_APauseFreezesAndResumes(t *testing.T) {
	b := newBench(t)
	l := b.lease(0, counts)
	b.desk.Grant([]*pb.Lease{l})
	b.await("it runs", func() bool { return b.state(l) != "" })
	b.e.SetLimits(Limits{Cores: 1}, "the owner is back")
	still := b.state(l)
	if items := b.e.Items(); len(items) != 1 || !items[0].Frozen || items[0].Memory == 0 {
		t.Errorf("items %+v, want one that is frozen, with its memory", items)
	}
	if held := b.desk.Held(); len(held) != 1 {
		t.Errorf("holds %v; a frozen attempt keeps its lease", held)
	}
	// A moment in which it would have counted on a hundred times.
	time.Sleep(time.Second)
	if now := b.state(l); now != still {
		t.Errorf("it counted from %s to %s while it was frozen", still, now)
	}
	b.e.SetLimits(Limits{Cores: 1}, "")
	b.await("it goes on", func() bool { return b.state(l) != still })
}

func TestExecutor_ShutdownGivesAnAppTimeToLeaveItsState(t *testing.T) {
	b := newBench(t)
	l := b.lease(0, `
import os, signal, sys, time
here = os.environ["CHECKPOINT_DIR"]
def leave(*_):
    open(os.path.join(here, "count"), "w").write("left at SIGTERM")
    sys.exit(0)
signal.signal(signal.SIGTERM, leave)
open(os.path.join(here, "ready"), "w").close()
while True: time.sleep(60)
`)
	b.desk.Grant([]*pb.Lease{l})
	ready := filepath.Join(b.dir, "checkpoints", string(spare.AttemptID(l.Attempt).Task()), stateDir, "ready")
	b.await("it is ready", func() bool { _, err := os.Stat(ready); return err == nil })
	b.stop()
	ended := b.report(l)
	if ended.Checkpoint == nil || files(t, ended.Checkpoint.Inline)["count"] != "left at SIGTERM" {
		t.Errorf("ended = %v", ended)
	}
}

func TestExecutor_ACancelledAttemptGetsNoTime(t *testing.T) {
	b := newBench(t)
	l := b.lease(0, `
import os, signal, time
here = os.environ["CHECKPOINT_DIR"]
signal.signal(signal.SIGTERM, lambda *_: open(os.path.join(here, "count"), "w").write("SIGTERM"))
open(os.path.join(here, "ready"), "w").close()
while True: time.sleep(60)
`)
	b.desk.Grant([]*pb.Lease{l})
	ready := filepath.Join(b.dir, "checkpoints", string(spare.AttemptID(l.Attempt).Task()), stateDir, "ready")
	b.await("it is ready", func() bool { _, err := os.Stat(ready); return err == nil })
	b.desk.Cancel([]spare.AttemptID{spare.AttemptID(l.Attempt)}, "the job was aborted")
	began := time.Now()
	b.e.wg.Wait()
	if took := time.Since(began); took > grace/2 {
		t.Errorf("it took %v to end", took)
	}
	if b.state(l) == "SIGTERM" {
		t.Error("it was asked to end")
	}
}

func tarOf(t *testing.T, name, content string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(content))}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte(content)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}
