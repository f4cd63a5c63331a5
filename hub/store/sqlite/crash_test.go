package sqlite_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/ncruces/go-sqlite3"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/hub/scheduler"
	"github.com/spare-compute/spare/hub/store"
	"github.com/spare-compute/spare/hub/store/sqlite"
)

// A witness makes turns on a store and keeps what was acknowledged.
type witness struct {
	rng     *rand.Rand
	created bool
	added   int            // tasks
	state   map[int]string // acknowledged state of each task, by chunk
	doubt   map[int]string // what the call in flight would have made of them
	notes   int            // acknowledged updates of the job
}

const crashJob = spare.JobID("crash")

// play works on the store until it fails.
func (w *witness) play(s *sqlite.Store) error {
	if err := s.CreateJob(ctx, spare.Job{ID: crashJob, State: spare.JobRunning}); err != nil && !errors.Is(err, store.ErrConflict) {
		return err
	}
	w.created = true
	for range 160 {
		w.doubt = map[int]string{}
		var err error
		switch w.rng.IntN(8) {
		case 0:
			err = w.add(s)
		case 1:
			_, err = s.UpdateJob(ctx, crashJob, func(j *spare.Job) error { j.Done = w.notes + 1; return nil })
			if err == nil {
				w.notes++
			}
		default:
			err = w.turn(s)
		}
		if err != nil {
			return err
		}
		for chunk, state := range w.doubt {
			w.state[chunk] = state
		}
	}
	return nil
}

func (w *witness) add(s *sqlite.Store) error {
	var tasks []spare.Task
	for i := range 1 + w.rng.IntN(40) {
		chunk := w.added + i
		tasks = append(tasks, spare.Task{Job: crashJob, Chunk: chunk, State: spare.TaskReady})
		w.doubt[chunk] = "ready 0"
	}
	if err := s.AddTasks(ctx, tasks); err != nil {
		return err
	}
	w.added += len(tasks)
	return nil
}

func (w *witness) turn(s *sqlite.Store) error {
	if w.added == 0 {
		return nil
	}
	var l scheduler.Ledger
	for range 1 + w.rng.IntN(60) {
		chunk, n := w.rng.IntN(w.added), 1+w.rng.IntN(1000)
		if _, twice := w.doubt[chunk]; twice {
			continue
		}
		t := spare.Task{Job: crashJob, Chunk: chunk, State: spare.TaskRunning, Attempts: n}
		w.doubt[chunk] = fmt.Sprint("running ", n)
		l.Tasks = append(l.Tasks, t)
		l.Attempts = append(l.Attempts, spare.Attempt{
			Job: crashJob, Chunk: chunk, Number: n, Granted: time.Unix(int64(n), 0), Log: strings.Repeat("x", w.rng.IntN(2)*w.rng.IntN(3000)),
		})
	}
	return s.Commit(ctx, l)
}

// check compares what a reopened store has with what was acknowledged. The call that was
// in flight happened whole or not at all.
func (w *witness) check(s *sqlite.Store) error {
	j, err := s.Job(ctx, crashJob)
	if err != nil {
		if !w.created && errors.Is(err, store.ErrNotFound) {
			return nil
		}
		return err
	}
	if j.Done != w.notes && j.Done != w.notes+1 {
		return fmt.Errorf("the job has update %d, %d was acknowledged", j.Done, w.notes)
	}
	tasks, err := s.Tasks(ctx, crashJob, 0, 0)
	if err != nil {
		return err
	}
	have := map[int]string{}
	for _, t := range tasks {
		have[t.Chunk] = fmt.Sprint(t.State, " ", t.Attempts)
	}
	happened := len(w.doubt) > 0
	for chunk, state := range w.doubt {
		happened = happened && have[chunk] == state
	}
	want := map[int]string{}
	for chunk, state := range w.state {
		want[chunk] = state
	}
	if happened {
		for chunk, state := range w.doubt {
			want[chunk] = state
		}
	}
	if len(have) != len(want) {
		return fmt.Errorf("%d tasks, want %d", len(have), len(want))
	}
	for chunk, state := range want {
		if have[chunk] != state {
			return fmt.Errorf("chunk %d is %q, want %q (call in flight happened: %v)", chunk, have[chunk], state, happened)
		}
	}
	attempts, err := s.Attempts(ctx, crashJob)
	if err != nil {
		return err
	}
	numbers := map[spare.AttemptID]bool{}
	for _, a := range attempts {
		numbers[a.ID] = true
	}
	for chunk, state := range want {
		var n int
		if _, err := fmt.Sscanf(state, "running %d", &n); err == nil && !numbers[spare.NewAttemptID(spare.NewTaskID(crashJob, chunk), n)] {
			return fmt.Errorf("chunk %d is %s and attempt %d is missing", chunk, state, n)
		}
	}
	return nil
}

// crash runs a workload on a disk whose power fails at its n-th operation, and says what
// is wrong afterwards.
func crash(t *testing.T, seed uint64, cutAt int, lies bool) (operations int, err error) {
	t.Helper()
	disk := newFaultDisk(seed)
	disk.cutAt, disk.lies = cutAt, lies
	w := &witness{rng: rand.New(rand.NewPCG(seed, 1)), state: map[int]string{}, doubt: map[int]string{}}
	if s, err := sqlite.Open(ctx, "/hub.db", sqlite.Options{VFS: disk.mount(t), Readers: 1}); err == nil {
		failed := w.play(s)
		if failed == nil && cutAt > 0 && disk.dead {
			return 0, errors.New("the power failed and no call said so")
		}
		closed := s.Close() // with the power off it has nothing good to say
		if cutAt == 0 && (failed != nil || closed != nil) {
			return 0, errors.Join(failed, closed)
		}
	} else if !disk.dead {
		return 0, err
	}
	after := disk.reboot()
	s, err := sqlite.Open(ctx, "/hub.db", sqlite.Options{VFS: after.mount(t), Readers: 1})
	if err != nil {
		return disk.ops, fmt.Errorf("open after the power cut: %w", err)
	}
	if err := w.check(s); err != nil {
		s.Close()
		return disk.ops, err
	}
	if err := s.Close(); err != nil {
		return disk.ops, err
	}
	return disk.ops, integrity(after.mount(t))
}

// integrity asks SQLite itself whether the file is sound.
func integrity(vfsName string) error {
	c, err := sqlite3.Open("file:/hub.db?vfs=" + vfsName)
	if err != nil {
		return err
	}
	defer c.Close()
	st, _, err := c.Prepare(`PRAGMA integrity_check`)
	if err != nil {
		return err
	}
	defer st.Close()
	if !st.Step() || st.ColumnText(0) != "ok" {
		return fmt.Errorf("integrity check says %q", st.ColumnText(0))
	}
	return nil
}

func TestSQLite_PowerCutLosesNothingAcknowledged(t *testing.T) {
	whole, err := crash(t, 0, 0, false)
	if err != nil {
		t.Fatalf("without a power cut: %v", err)
	}
	if whole < 500 {
		t.Fatalf("the workload makes only %d disk operations", whole)
	}
	rng := rand.New(rand.NewPCG(2, 3))
	cuts := []int{1, 2, 3, 5, 8, 13, 21, 34}
	more := 12
	if os.Getenv("SPARE_LONG") != "" {
		more = 200
	}
	for range more {
		cuts = append(cuts, 1+rng.IntN(whole))
	}
	for i, at := range cuts {
		if _, err := crash(t, uint64(i), at, false); err != nil {
			t.Errorf("power cut at operation %d, seed %d: %v", at, i, err)
		}
	}
}

// If this fails, the test above proves nothing.
func TestFaultDisk_ThatIgnoresSyncIsNoticed(t *testing.T) {
	for seed := range uint64(20) {
		if _, err := crash(t, seed, 400, true); err != nil {
			return
		}
	}
	t.Error("a disk that ignores sync passes the power cut test")
}

func TestSQLite_FullDiskSaysSoAndKeepsWhatIsThere(t *testing.T) {
	disk := newFaultDisk(1)
	s := open(t, "/hub.db", sqlite.Options{VFS: disk.mount(t)})
	if err := s.CreateJob(ctx, spare.Job{ID: "j"}); err != nil {
		t.Fatal(err)
	}
	disk.mu.Lock()
	disk.room = 64 << 10
	disk.mu.Unlock()
	var err error
	chunk := 0
	for ; chunk < 100 && err == nil; chunk++ {
		err = s.AddTasks(ctx, []spare.Task{{Job: "j", Chunk: chunk, State: spare.TaskReady, Error: strings.Repeat("x", 9000)}})
	}
	if !errors.Is(err, store.ErrFull) || !strings.Contains(err.Error(), "free some space") || !strings.Contains(err.Error(), "/hub.db") {
		t.Fatalf("error %v", err)
	}
	if n, err := s.CountTasks(ctx, "j"); err != nil || n[spare.TaskReady] != chunk-1 {
		t.Errorf("tasks %v (%v), want the %d acknowledged", n, err, chunk-1)
	}
	disk.mu.Lock()
	disk.room = 1 << 30
	disk.mu.Unlock()
	if err := s.AddTasks(ctx, []spare.Task{{Job: "j", Chunk: chunk, State: spare.TaskReady}}); err != nil {
		t.Errorf("with room again: %v", err)
	}
}
