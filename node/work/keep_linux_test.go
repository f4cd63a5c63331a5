package work

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/protocol/pb"
)

// hoards is an App that leaves a checkpoint which takes a minute to pack, and stays.
const hoards = `
import os, time
state = os.environ["CHECKPOINT_DIR"]
with open(os.path.join(state, "big"), "w") as f: f.truncate(60 << 30)
open(os.path.join(state, "count"), "w").write("1")
time.sleep(3600)
`

// kept are the names in the folder of checkpoints.
func (b *bench) kept() (names []string) {
	entries, _ := os.ReadDir(filepath.Join(b.dir, "checkpoints"))
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func TestExecutor_WhatTheHubNoLongerWantsLeavesNoCheckpoint(t *testing.T) {
	for name, end := range map[string]func(*Desk, []spare.AttemptID){
		"cancelled": func(d *Desk, ids []spare.AttemptID) { d.Cancel(ids, "the job was aborted") },
		"dropped":   (*Desk).Drop,
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			l := b.lease(0, hoards)
			b.desk.Grant([]*pb.Lease{l})
			b.await("it has a checkpoint", func() bool { return b.state(l) != "" })
			began := time.Now()
			end(b.desk, []spare.AttemptID{spare.AttemptID(l.Attempt)})
			b.e.wg.Wait()
			if took := time.Since(began); took > 10*time.Second {
				t.Errorf("it took %v to end; is a checkpoint packed that nobody asks for?", took)
			}
			if kept := b.kept(); len(kept) != 0 {
				t.Errorf("left in checkpoints: %v", kept)
			}
		})
	}
}

func TestExecutor_ACancelledEndLeavesNothing(t *testing.T) {
	b := newBench(t)
	b.e.cfg.Patience = time.Millisecond
	l := b.lease(0, counts)
	b.desk.Grant([]*pb.Lease{l})
	b.await("it has a checkpoint", func() bool { return b.state(l) != "" })
	b.e.SetLimits(Limits{Cores: 1}, "the owner is back")
	b.report(l)
	b.desk.Cancel([]spare.AttemptID{spare.AttemptID(l.Attempt)}, "the job was aborted")
	if kept := b.kept(); len(kept) != 0 {
		t.Errorf("left in checkpoints: %v", kept)
	}
}

func TestExecutor_ATaskThatIsBackKeepsItsCheckpoint(t *testing.T) {
	b := newBench(t)
	l := b.lease(0, counts)
	b.desk.Grant([]*pb.Lease{l})
	b.await("it has a checkpoint", func() bool { return b.state(l) != "" })
	again := next(l, "2", "", nil)
	b.desk.Grant([]*pb.Lease{again}) // waits for the core
	b.desk.Cancel([]spare.AttemptID{spare.AttemptID(l.Attempt)}, "a straggler")
	if done := b.report(again); done.Outcome != pb.Outcome_OUTCOME_SUCCEEDED || files(t, done.Result.Inline)["out"] == "0" {
		t.Errorf("ended = %v %q, want it to go on from what lies here", done, done.Log)
	}
}

func TestExecutor_ACheckpointCountsAgainstTheDiskLent(t *testing.T) {
	const mib = 1 << 20
	for name, c := range map[string]struct {
		disk  uint64
		want  pb.Outcome
		words string // in the message
	}{
		"some is left":   {24 * mib, pb.Outcome_OUTCOME_APP_FAILED, "wrote more than it may"},
		"nothing is":     {16 * mib, pb.Outcome_OUTCOME_OUT_OF_DISK, "all of the 16 MiB"},
		"it was lowered": {1 * mib, pb.Outcome_OUTCOME_OUT_OF_DISK, "all of the 1 MiB"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			b.e.SetLimits(Limits{Cores: 1, Memory: 1 << 30, Disk: c.disk}, "")
			l := next(b.lease(0, `
import os, time
n = 0
while True:
    n += 1
    with open(os.path.join(os.environ["CHECKPOINT_DIR"], "more%d" % n), "wb") as f: f.write(os.urandom(1 << 20))
    if n == 20: time.sleep(3600)
    time.sleep(0.1)
`), "2", "", nil)
			data, err := b.desk.checkpoints.begin(spare.AttemptID(l.Attempt).Task(), 1, nil)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(data, "earlier"), make([]byte, 16*mib), 0o644); err != nil {
				t.Fatal(err)
			}
			b.desk.Grant([]*pb.Lease{l})
			ended := b.report(l)
			if ended.Outcome != c.want || !strings.Contains(ended.Message, c.words) {
				t.Errorf("ended = %v, want %v with %q", ended, c.want, c.words)
			}
			b.desk.Accepted([]*pb.Verdict{{Attempt: l.Attempt, Taken: true}})
			if kept := b.kept(); len(kept) != 0 {
				t.Errorf("left in checkpoints: %v", kept)
			}
		})
	}
}

func TestExecutor_ASentCheckpointThatDoesNotFitIsNotTheAppsFault(t *testing.T) {
	b := newBench(t)
	b.e.SetLimits(Limits{Cores: 1, Memory: 1 << 30, Disk: 1 << 20}, "")
	l := next(b.lease(0, echo), "2", "1", b.hub.add(tarOf(t, "big", strings.Repeat("x", 2<<20))))
	b.desk.Grant([]*pb.Lease{l})
	if ended := b.report(l); ended.Outcome != pb.Outcome_OUTCOME_OUT_OF_DISK || !strings.Contains(ended.Message, "checkpoint") {
		t.Errorf("ended = %v", ended)
	}
}

// leave puts a checkpoint on disk that was last taken up a while ago.
func (b *bench) leave(task spare.TaskID, ago time.Duration, bytes int64) {
	b.t.Helper()
	data, err := b.desk.checkpoints.begin(task, 1, nil)
	if err == nil {
		err = os.WriteFile(filepath.Join(data, "state"), nil, 0o644)
	}
	if err == nil {
		err = os.Truncate(filepath.Join(data, "state"), bytes)
	}
	at := time.Now().Add(-ago)
	if err == nil {
		err = os.Chtimes(filepath.Join(b.dir, "checkpoints", string(task), stateFile), at, at)
	}
	if err != nil {
		b.t.Fatal(err)
	}
}

func TestExecutor_EachRunClearsCheckpointsThatNobodyComesBackFor(t *testing.T) {
	b := newBench(t)
	const disk = 1 << 30
	b.e.SetLimits(Limits{Cores: 1, Memory: 1 << 30, Disk: disk}, "")
	running := b.lease(0, counts)
	b.desk.Grant([]*pb.Lease{running})
	b.await("it runs", func() bool { return b.state(running) != "" })
	// The first one is in use, however old and large it seems.
	used := spare.AttemptID(running.Attempt).Task()
	b.leave(used, 3*keepState, disk/4)
	b.leave("forgotten.0", keepState+time.Hour, 1)
	b.leave("older.0", 3*time.Hour, disk/4)
	b.leave("old.0", 2*time.Hour, disk/4)
	b.leave("new.0", time.Hour, disk/4)
	another := b.lease(1, forever)
	b.desk.Grant([]*pb.Lease{another})
	want := []string{string(used), string(spare.AttemptID(another.Attempt).Task()), "new.0"}
	slices.Sort(want)
	var kept []string
	b.await("the rest is cleared", func() bool {
		kept = slices.DeleteFunc(b.kept(), func(name string) bool { return strings.HasPrefix(name, goneMark) || name == "old.0" })
		return slices.Equal(kept, want)
	})
	if !slices.Contains(b.kept(), "old.0") {
		t.Error("one that fits is gone")
	}
}

func TestSurplus_OldestGoFirst(t *testing.T) {
	now := time.Now()
	at := func(name string, hours int, bytes int64) unclaimed {
		return unclaimed{task: spare.TaskID(name), since: now.Add(-time.Duration(hours) * time.Hour), bytes: bytes}
	}
	all := []unclaimed{at("new", 1, 10), at("ancient", 8*24, 1), at("old", 5, 20), at("older", 9, 5)}
	for room, want := range map[int64]string{0: "[ancient]", 35: "[ancient]", 30: "[ancient older]", 29: "[ancient older old]", 5: "[ancient older old new]"} {
		var got []spare.TaskID
		for _, u := range surplus(slices.Clone(all), room, now) {
			got = append(got, u.task)
		}
		if fmt.Sprint(got) != want {
			t.Errorf("with room for %d go %v, want %s", room, got, want)
		}
	}
}

func TestCheckpoints_SizeSeesWhatIsHidden(t *testing.T) {
	b := newBench(t)
	b.leave("job.0", 0, 1<<20)
	data := filepath.Join(b.dir, "checkpoints", "job.0", stateDir)
	hidden := filepath.Join(data, "hidden")
	if err := os.Mkdir(hidden, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(hidden, "x"), make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/", filepath.Join(data, "link")); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{hidden, data} {
		if err := os.Chmod(dir, 0); err != nil {
			t.Fatal(err)
		}
	}
	const want = 2<<20 + 2*leastFile
	if got := b.desk.checkpoints.size("job.0"); got != want {
		t.Errorf("size %d, want %d", got, int64(want))
	}
	deep := filepath.Join(data, strings.Repeat("d/", deepest+10))
	if err := os.MkdirAll(deep, 0o755); err != nil {
		t.Fatal(err)
	}
	if got := b.desk.checkpoints.size("job.0"); got != noEnd {
		t.Errorf("size %d of what is too deep to be counted", got)
	}
}
