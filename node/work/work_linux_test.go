package work

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/bundle"
	"github.com/spare-compute/spare/node/cache"
	"github.com/spare-compute/spare/protocol"
	"github.com/spare-compute/spare/protocol/pb"
	"github.com/spare-compute/spare/sandbox"
)

func TestMain(m *testing.M) {
	sandbox.Init()
	os.Exit(m.Run())
}

const within = 30 * time.Second

// hub is the blobs of a hub in memory.
type hub struct {
	mu    sync.Mutex
	blobs map[spare.Digest][]byte
	down  chan struct{} // closed: reachable
	fail  error
	gets  int
}

func newHub() *hub {
	h := &hub{blobs: map[spare.Digest][]byte{}, down: make(chan struct{})}
	close(h.down)
	return h
}

func (h *hub) add(b []byte) *pb.Blob {
	d := spare.Sum(b)
	h.mu.Lock()
	defer h.mu.Unlock()
	h.blobs[d] = b
	return &pb.Blob{Digest: string(d), Size: uint64(len(b))}
}

func (h *hub) wait(ctx context.Context) error {
	h.mu.Lock()
	down := h.down
	h.mu.Unlock()
	select {
	case <-down:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (h *hub) Get(ctx context.Context, d spare.Digest, offset int64, w io.Writer) error {
	if err := h.wait(ctx); err != nil {
		return err
	}
	h.mu.Lock()
	b, ok := h.blobs[d]
	h.gets++
	h.mu.Unlock()
	if !ok {
		return protocol.ErrNotFound
	}
	_, err := w.Write(b[offset:])
	return err
}

func (h *hub) Put(ctx context.Context, d spare.Digest, _ int64, open func(int64) (io.ReadCloser, error)) error {
	if err := h.wait(ctx); err != nil {
		return err
	}
	if h.fail != nil {
		return h.fail
	}
	r, err := open(0)
	if err != nil {
		return err
	}
	defer func() { _ = r.Close() }()
	b, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	if spare.Sum(b) != d {
		return protocol.ErrMismatch
	}
	h.add(b)
	return nil
}

// bench is an executor with one desk, on folders that outlive it.
type bench struct {
	t     *testing.T
	dir   string
	hub   *hub
	cache *cache.Cache
	e     *Executor
	desk  *Desk
	stop  func()
}

func newBench(t *testing.T) *bench {
	b := &bench{t: t, dir: t.TempDir(), hub: newHub()}
	b.begin()
	t.Cleanup(func() { b.stop(); _ = cache.RemoveAll(b.dir) })
	return b
}

// begin starts the executor, as a start of the program does.
func (b *bench) begin() {
	b.t.Helper()
	var err error
	if b.cache, err = cache.Open(filepath.Join(b.dir, "cache"), 1<<30); err != nil {
		b.t.Fatal(err)
	}
	b.e, err = New(Config{Scratch: filepath.Join(b.dir, "work"), Cache: b.cache, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.t.Fatal(err)
	}
	if b.desk, err = b.e.Desk("attic", filepath.Join(b.dir, "results"), b.hub); err != nil {
		b.t.Fatal(err)
	}
	letIn(b.desk)
	for _, rt := range sandbox.Default() {
		b.e.SetRuntimes([]Runtime{{rt, rt.Probe(b.t.Context())}})
	}
	b.e.SetLimits(Limits{Cores: 1, Memory: 1 << 30}, "")
	ctx, cancel := context.WithCancel(b.t.Context())
	done := make(chan struct{})
	go func() { defer close(done); _ = b.e.Run(ctx) }()
	b.stop = sync.OnceFunc(func() { cancel(); <-done })
}

// lease is one of an App whose main.py is given.
func (b *bench) lease(chunk int, program string) *pb.Lease {
	b.t.Helper()
	app := filepath.Join(b.t.TempDir(), "app")
	if err := errors.Join(os.Mkdir(app, 0o755), os.WriteFile(filepath.Join(app, "main.py"), []byte(program), 0o644)); err != nil {
		b.t.Fatal(err)
	}
	var packed bytes.Buffer
	if _, err := bundle.Pack(app, &packed); err != nil {
		b.t.Fatal(err)
	}
	return &pb.Lease{
		Attempt: fmt.Sprintf("6a1f0c1e-0000-4000-8000-000000000000.%d.1", chunk), Chunk: uint32(chunk), TimeoutS: 20,
		App: &pb.App{
			Name: "test", Version: "0.1", Entrypoint: "main.py", Platform: "python", Root: ".", Bundle: b.hub.add(packed.Bytes()),
		},
		Params: []byte(`{"n": 7}`), Input: b.hub.add([]byte("input of chunk " + fmt.Sprint(chunk))), JobName: "job",
	}
}

// await polls until a condition holds; news of the desk wake it.
func (b *bench) await(what string, cond func() bool) {
	b.t.Helper()
	deadline := time.After(within)
	for !cond() {
		select {
		case <-b.desk.News():
		case <-time.After(5 * time.Millisecond):
		case <-deadline:
			b.t.Fatalf("waited in vain until %s; work: %+v", what, b.e.Items())
		}
	}
}

func (b *bench) report(l *pb.Lease) *pb.Ended {
	b.t.Helper()
	var found *pb.Ended
	b.await(l.Attempt+" is reported", func() bool {
		for _, e := range b.desk.Reports() {
			if e.Attempt == l.Attempt {
				found = e
			}
		}
		return found != nil
	})
	return found
}

func (b *bench) running(l *pb.Lease) func() bool {
	return func() bool {
		for _, it := range b.e.Items() {
			if string(it.Attempt) == l.Attempt {
				return it.Phase == "running"
			}
		}
		return false
	}
}

const echo = `
import os
data = open(os.path.join(os.environ["TASK_DIR"], "data.bin")).read()
open(os.path.join(os.environ["TASK_RESULTS_DIR"], "out.txt"), "w").write(data + " " + os.environ["APP_PARAMS"] + " " + os.environ["CHUNK_NUMBER"])
print("done")
`

const forever = `
import time
while True: time.sleep(0.05)
`

// files are those of a packed result.
func files(t *testing.T, packed []byte) map[string]string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "out")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := bundle.Unpack(t.Context(), bytes.NewReader(packed), dir, bundle.Limits{}); err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		raw, err := os.ReadFile(path)
		name, _ := filepath.Rel(dir, path)
		got[name] = string(raw)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestExecutor_RunsALeaseAndForgetsItWhenAccepted(t *testing.T) {
	b := newBench(t)
	l := b.lease(3, echo)
	b.desk.Grant([]*pb.Lease{l})
	ended := b.report(l)
	if ended.Outcome != pb.Outcome_OUTCOME_SUCCEEDED || ended.WallMs == 0 || !strings.Contains(string(ended.Log), "done") {
		t.Fatalf("ended = %v", ended)
	}
	if ended.Files != 1 || spare.Sum(ended.Result.Inline) != spare.Digest(ended.Result.Digest) || !spare.Digest(ended.Content).Valid() {
		t.Errorf("result = %v", ended)
	}
	want := `input of chunk 3 {"n": 7} 3`
	if got := files(t, ended.Result.Inline); got["out.txt"] != want {
		t.Errorf("files = %q, want out.txt with %q", got, want)
	}
	if held := b.desk.Held(); len(held) != 1 {
		t.Errorf("held = %v; the lease is renewed until the result is accepted", held)
	}
	b.desk.Accepted([]*pb.Verdict{{Attempt: l.Attempt, Taken: true}})
	if len(b.desk.Held()) != 0 || Pending(filepath.Join(b.dir, "results")) != 0 {
		t.Error("an accepted result was not forgotten")
	}
	if left, _ := os.ReadDir(filepath.Join(b.dir, "work")); len(left) != 0 {
		t.Errorf("scratch left behind: %v", left)
	}
}

func TestExecutor_EveryFailureHasItsOutcome(t *testing.T) {
	missing := func(b *pb.Blob) *pb.Blob { return &pb.Blob{Digest: string(spare.Sum([]byte("gone"))), Size: b.Size} }
	for name, c := range map[string]struct {
		program string
		change  func(*pb.Lease)
		want    pb.Outcome
		words   string // in the message or the log
	}{
		"app fails":          {"import sys; print('last words'); sys.exit(3)", nil, pb.Outcome_OUTCOME_APP_FAILED, "last words"},
		"app takes too long": {forever, func(l *pb.Lease) { l.TimeoutS = 1 }, pb.Outcome_OUTCOME_TIMED_OUT, "longer"},
		"result that is a link": {
			"import os; os.symlink('/etc/passwd', os.environ['TASK_RESULTS_DIR'] + '/x')", nil,
			pb.Outcome_OUTCOME_APP_FAILED, "x",
		},
		"no input":         {echo, func(l *pb.Lease) { l.Input = missing(l.Input) }, pb.Outcome_OUTCOME_FETCH_FAILED, "blob"},
		"no bundle":        {echo, func(l *pb.Lease) { l.App.Bundle = missing(l.App.Bundle) }, pb.Outcome_OUTCOME_FETCH_FAILED, "blob"},
		"no such platform": {echo, func(l *pb.Lease) { l.App.Platform = "container" }, pb.Outcome_OUTCOME_SANDBOX_FAILED, "container"},
		"too large for us": {echo, func(l *pb.Lease) { l.Input.Size = 1 << 40 }, pb.Outcome_OUTCOME_OUT_OF_DISK, "prefs set disk"},
		"inline that lies": {
			echo, func(l *pb.Lease) { l.Input = &pb.Blob{Digest: l.Input.Digest, Inline: []byte("x"), Size: 1} },
			pb.Outcome_OUTCOME_FETCH_FAILED, "digest",
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			l := b.lease(0, c.program)
			if c.change != nil {
				c.change(l)
			}
			b.desk.Grant([]*pb.Lease{l})
			ended := b.report(l)
			if ended.Outcome != c.want || !strings.Contains(ended.Message+string(ended.Log), c.words) {
				t.Errorf("ended = %v; want %v with %q", ended, c.want, c.words)
			}
			if ended.Result != nil {
				t.Error("a failure has a result")
			}
			b.await("its cores are free", func() bool { run, _ := b.desk.Want(); return run == 1 })
		})
	}
}

func TestExecutor_BadBundleIsTheAppsFault(t *testing.T) {
	b := newBench(t)
	l := b.lease(0, echo)
	var bad bytes.Buffer
	w := tar.NewWriter(&bad)
	if err := errors.Join(w.WriteHeader(&tar.Header{Name: "../escape", Mode: 0o644, Typeflag: tar.TypeReg}), w.Close()); err != nil {
		t.Fatal(err)
	}
	l.App.Bundle = b.hub.add(bad.Bytes())
	b.desk.Grant([]*pb.Lease{l})
	if ended := b.report(l); ended.Outcome != pb.Outcome_OUTCOME_APP_FAILED || !strings.Contains(ended.Message, "escape") {
		t.Errorf("ended = %v", ended)
	}
}

func TestExecutor_CancelKillsAtOnceAndLeavesNothing(t *testing.T) {
	b := newBench(t)
	l, next := b.lease(0, forever), b.lease(1, echo)
	b.desk.Grant([]*pb.Lease{l})
	b.await("it runs", b.running(l))
	b.desk.Grant([]*pb.Lease{next})
	began := time.Now()
	b.desk.Cancel([]spare.AttemptID{spare.AttemptID(l.Attempt)}, "job aborted")
	ended := b.report(next) // it waited for the core
	if ended.Outcome != pb.Outcome_OUTCOME_SUCCEEDED {
		t.Errorf("ended = %v", ended)
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("the core came free after %v", took)
	}
	if reports := b.desk.Reports(); len(reports) != 1 {
		t.Errorf("reports = %v; a cancelled attempt has nothing to say", reports)
	}
	if n := Pending(filepath.Join(b.dir, "results")); n != 1 {
		t.Errorf("%d results on disk, want the second one's", n)
	}
	b.desk.Accepted([]*pb.Verdict{{Attempt: next.Attempt, Taken: true}})
	b.e.wg.Wait()
	for _, folder := range []string{"checkpoints", "work"} {
		if left, _ := os.ReadDir(filepath.Join(b.dir, folder)); len(left) != 0 {
			t.Errorf("left in %s: %v", folder, left)
		}
	}
}

func TestExecutor_InputsAreFetchedWhileAnotherComputes(t *testing.T) {
	b := newBench(t)
	first, second := b.lease(0, forever), b.lease(1, echo)
	b.desk.Grant([]*pb.Lease{first})
	b.await("it runs", b.running(first))
	b.desk.Grant([]*pb.Lease{second})
	b.await("one runs and the other is ready", func() bool {
		phases := map[string]int{}
		for _, it := range b.e.Items() {
			phases[it.Phase]++
		}
		return phases["running"] == 1 && phases["waiting"] == 1
	})
	if run, _ := b.desk.Want(); run != 0 {
		t.Errorf("a full node wants %d more to run", run)
	}
}

func TestExecutor_LargeResultsAreUploadedAndOutlastALostHub(t *testing.T) {
	b := newBench(t)
	l := b.lease(0, `
import os
open(os.environ["TASK_RESULTS_DIR"] + "/big", "wb").write(os.urandom(300_000))
`)
	b.desk.Grant([]*pb.Lease{l})
	b.await("it runs", b.running(l))
	b.hub.mu.Lock()
	b.hub.down = make(chan struct{}) // from here on the hub is not reached
	b.hub.mu.Unlock()
	b.await("it is kept", func() bool { return Pending(filepath.Join(b.dir, "results")) == 1 })
	b.stop() // and the node starts anew
	close(b.hub.down)
	b.begin()
	ended := b.report(l)
	if ended.Outcome != pb.Outcome_OUTCOME_SUCCEEDED || len(ended.Result.Inline) != 0 {
		t.Fatalf("ended = %v", ended)
	}
	if got := b.hub.blobs[spare.Digest(ended.Result.Digest)]; len(files(t, got)["big"]) != 300_000 {
		t.Error("the hub did not get the whole result")
	}
}

func TestExecutor_UploadThatCannotBeIsReported(t *testing.T) {
	b := newBench(t)
	b.hub.fail = fmt.Errorf("put blob: %w: this node has no lease", protocol.ErrDenied) // what a full disk does, the link waits out
	l := b.lease(0, `
import os
open(os.environ["TASK_RESULTS_DIR"] + "/big", "wb").write(os.urandom(300_000))
`)
	b.desk.Grant([]*pb.Lease{l})
	if ended := b.report(l); ended.Outcome != pb.Outcome_OUTCOME_UPLOAD_FAILED || !strings.Contains(ended.Message, "has no lease") {
		t.Errorf("ended = %v", ended)
	}
}

func TestAttempt_AnAppThatWritesTooMuchIsNotADiskThatIsFull(t *testing.T) {
	app := &pb.Ended{Outcome: pb.Outcome_OUTCOME_OUT_OF_DISK, WallMs: 1200, Message: "wrote more than it may"}
	disk := &pb.Ended{Outcome: pb.Outcome_OUTCOME_OUT_OF_DISK, Message: "no space left on device"}
	overDisk(app)
	overDisk(disk)
	if app.Outcome != pb.Outcome_OUTCOME_APP_FAILED || disk.Outcome != pb.Outcome_OUTCOME_OUT_OF_DISK {
		t.Errorf("the App's own limit is reported as %s, a full disk as %s", app.Outcome, disk.Outcome)
	}
}

func TestExecutor_KilledNodeReportsFinishedWorkAndNoOther(t *testing.T) {
	b := newBench(t)
	done, cut := b.lease(0, echo), b.lease(1, forever)
	b.desk.Grant([]*pb.Lease{done})
	b.report(done)
	b.desk.Grant([]*pb.Lease{cut})
	b.await("the other runs", b.running(cut))
	// What kill -9 leaves is what lies on disk now.
	copied := filepath.Join(b.t.TempDir(), "copy")
	if err := os.CopyFS(copied, os.DirFS(filepath.Join(b.dir, "results"))); err != nil {
		t.Fatal(err)
	}
	half := filepath.Join(copied, halfMade+cut.Attempt)
	if err := errors.Join(os.Mkdir(half, 0o700), os.WriteFile(filepath.Join(half, resultFile), []byte("half"), 0o600)); err != nil {
		t.Fatal(err)
	}
	scratch := filepath.Join(b.dir, "scratch")
	if err := os.MkdirAll(filepath.Join(scratch, "1", "results"), 0o500); err != nil {
		t.Fatal(err)
	}
	e, err := New(Config{Scratch: scratch, Cache: b.cache, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	d, err := e.Desk("attic", copied, b.hub)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); _ = e.Run(ctx) }()
	<-e.Ready()
	if held := d.Held(); len(held) != 1 || string(held[0]) != done.Attempt {
		t.Errorf("held = %v, want the finished one alone", held)
	}
	cancel()
	<-ended
	if left, _ := os.ReadDir(scratch); len(left) != 0 {
		t.Errorf("scratch of the killed node is still there: %v", left)
	}
	if _, err := os.Stat(half); err == nil {
		t.Error("a half-made result is still there")
	}
}

func TestExecutor_PauseHandsBackAndShutdownToo(t *testing.T) {
	b := newBench(t)
	b.e.cfg.Patience = time.Millisecond
	run, wait := b.lease(0, forever), b.lease(1, forever)
	b.desk.Grant([]*pb.Lease{run})
	b.await("it runs", b.running(run))
	b.desk.Grant([]*pb.Lease{wait})
	b.e.SetLimits(Limits{Cores: 1}, "the machine runs on its battery")
	for _, l := range []*pb.Lease{run, wait} {
		if ended := b.report(l); ended.Outcome != pb.Outcome_OUTCOME_PREEMPTED || !strings.Contains(ended.Message, "battery") {
			t.Errorf("ended = %v", ended)
		}
	}
	if r, p := b.desk.Want(); r != 0 || p != 0 {
		t.Errorf("a paused node wants %d and %d", r, p)
	}
	b.e.SetLimits(Limits{Cores: 1}, "")
	last := b.lease(2, forever)
	b.desk.Grant([]*pb.Lease{last})
	b.await("it runs", b.running(last))
	b.stop()
	if ended := b.report(last); ended.Outcome != pb.Outcome_OUTCOME_PREEMPTED || !strings.Contains(ended.Message, "shutting down") {
		t.Errorf("ended = %v", ended)
	}
}

func TestExecutor_DropSparesFinishedResults(t *testing.T) {
	b := newBench(t)
	done, cut := b.lease(0, echo), b.lease(1, forever)
	b.desk.Grant([]*pb.Lease{done})
	b.report(done)
	b.desk.Grant([]*pb.Lease{cut})
	b.await("the other runs", b.running(cut))
	b.desk.Drop([]spare.AttemptID{spare.AttemptID(done.Attempt), spare.AttemptID(cut.Attempt)})
	if held := b.desk.Held(); len(held) != 1 || string(held[0]) != done.Attempt {
		t.Errorf("held = %v, want the finished one", held)
	}
}

func TestDesk_MalformedLeasesAreRefused(t *testing.T) {
	b := newBench(t)
	for name, change := range map[string]func(*pb.Lease){
		"path":      func(l *pb.Lease) { l.Attempt = "../../x.0.1" },
		"no number": func(l *pb.Lease) { l.Attempt = "job.0" },
		"no app":    func(l *pb.Lease) { l.App = nil },
		"no input":  func(l *pb.Lease) { l.Input = nil },
		"no digest": func(l *pb.Lease) { l.Input = &pb.Blob{Digest: "/etc/passwd", Size: 1} },
		"overflow":  func(l *pb.Lease) { l.Input.Size = 1 << 63 },
	} {
		l := b.lease(0, echo)
		change(l)
		b.desk.Grant([]*pb.Lease{l})
		if held := b.desk.Held(); len(held) != 0 {
			t.Errorf("%s: a malformed lease was taken: %v", name, held)
		}
	}
}

func TestSave_FullDiskCostsTheResultButNotTheNews(t *testing.T) {
	ended := &pb.Ended{Attempt: "a.0.1", Outcome: pb.Outcome_OUTCOME_SUCCEEDED, Result: &pb.Blob{Size: 5}}
	a := &attempt{ctx: t.Context()}
	if got := a.failed(fmt.Errorf("pack the result: %w", syscall.ENOSPC), pb.Outcome_OUTCOME_SANDBOX_FAILED); got.Outcome != pb.Outcome_OUTCOME_OUT_OF_DISK {
		t.Errorf("failed = %v", got)
	}
	rs, err := openResults(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	d := &Desk{results: rs, log: slog.New(slog.DiscardHandler)}
	d.save(ended, &pack{path: filepath.Join(t.TempDir(), "gone")})
	if ended.Outcome == pb.Outcome_OUTCOME_SUCCEEDED || ended.Result != nil {
		t.Errorf("a result that is not on disk is promised: %v", ended)
	}
}

func TestLookahead_IsAboutAMinute(t *testing.T) {
	for _, c := range []struct {
		seconds float64
		cores   int
		want    int
	}{{0, 8, 1}, {60, 1, 1}, {20, 1, 3}, {20, 2, 6}, {600, 4, 1}, {0.01, 1, 32}, {5, 16, 32}} {
		if got := lookahead(c.seconds, c.cores); got != c.want {
			t.Errorf("lookahead(%v s, %d cores) = %d, want %d", c.seconds, c.cores, got, c.want)
		}
	}
}

func TestPhase_EveryMoveIsInTheTable(t *testing.T) {
	allowed := map[[2]phase]bool{
		{fetching, waiting}: true, {fetching, saving}: true, {fetching, gone}: true,
		{waiting, running}: true, {waiting, saving}: true, {waiting, gone}: true,
		{running, saving}: true, {running, gone}: true,
		{saving, uploading}: true, {saving, gone}: true,
		{uploading, reporting}: true, {uploading, gone}: true,
		{reporting, gone}: true,
	}
	for from := fetching; from <= gone; from++ {
		for to := fetching; to <= gone; to++ {
			moved := func() (ok bool) {
				defer func() { ok = recover() == nil }()
				(&attempt{phase: from}).move(to)
				return true
			}()
			if moved != allowed[[2]phase{from, to}] {
				t.Errorf("%s → %s: %v", from, to, moved)
			}
		}
	}
}
