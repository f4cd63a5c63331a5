package sqlite_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/ncruces/go-sqlite3"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/hub/scheduler"
	"github.com/spare-compute/spare/hub/store"
	"github.com/spare-compute/spare/hub/store/sqlite"
	"github.com/spare-compute/spare/hub/store/storetest"
)

var ctx = context.Background()

func open(t testing.TB, path string, opts sqlite.Options) *sqlite.Store {
	t.Helper()
	s, err := sqlite.Open(ctx, path, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func TestSQLite_IsAStore(t *testing.T) {
	storetest.Run(t, func(t *testing.T) store.Store {
		return open(t, filepath.Join(t.TempDir(), "hub.db"), sqlite.Options{})
	})
}

func TestSQLite_NewerDataIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "hub.db")
	open(t, path, sqlite.Options{}).Close()
	exec(t, path, `PRAGMA user_version = 9999`)
	_, err := sqlite.Open(ctx, path, sqlite.Options{})
	if !errors.Is(err, store.ErrNewer) || !strings.Contains(err.Error(), "format 9999") || !strings.Contains(err.Error(), path) {
		t.Fatalf("error %v", err)
	}
}

func TestSQLite_MigratesOnceAndStopsWhole(t *testing.T) {
	path := filepath.Join(t.TempDir(), "hub.db")
	s := open(t, path, sqlite.Options{})
	if err := s.CreateJob(ctx, spare.Job{ID: "j"}); err != nil {
		t.Fatal(err)
	}
	s.Close()
	s = open(t, path, sqlite.Options{})
	if _, err := s.Job(ctx, "j"); err != nil {
		t.Fatalf("after a second start: %v", err)
	}
	// A script that cannot run leaves the version, and everything else, as it was.
	broken := filepath.Join(t.TempDir(), "hub.db")
	exec(t, broken, `CREATE TABLE nodes (x)`)
	if _, err := sqlite.Open(ctx, broken, sqlite.Options{}); err == nil || !strings.Contains(err.Error(), "migrate to format 1") {
		t.Fatalf("error %v", err)
	}
	if got := query(t, broken, `SELECT (SELECT count(*) FROM sqlite_schema) || ' ' || user_version FROM pragma_user_version`); got != "1 0" {
		t.Errorf("%q tables and version, want only what was there", got)
	}
}

func TestSQLite_SettingsAreDurable(t *testing.T) {
	path := filepath.Join(t.TempDir(), "hub with % and #?.db")
	open(t, path, sqlite.Options{})
	if got := query(t, path, `PRAGMA journal_mode`); got != "wal" {
		t.Errorf("journal mode %q", got)
	}
}

func TestSQLite_NotADatabaseIsSaid(t *testing.T) {
	path := filepath.Join(t.TempDir(), "hub.db")
	if err := os.WriteFile(path, []byte(strings.Repeat("not a database ", 400)), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := sqlite.Open(ctx, path, sqlite.Options{}); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("error %v, want one that names the file", err)
	}
	if _, err := sqlite.Open(ctx, filepath.Join(path, "below", "hub.db"), sqlite.Options{}); err == nil {
		t.Error("opened below a file")
	}
}

func TestSQLite_ReadersSeeWholeTurns(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "hub.db"), sqlite.Options{})
	if err := s.CreateJob(ctx, spare.Job{ID: "j"}); err != nil {
		t.Fatal(err)
	}
	const tasks = 50
	rows := make([]spare.Task, tasks)
	for i := range rows {
		rows[i] = spare.Task{Job: "j", Chunk: i, State: spare.TaskReady}
	}
	if err := s.AddTasks(ctx, rows); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for seen := 0; ; {
				got, err := s.Tasks(ctx, "j", 0, 0)
				if err != nil {
					t.Error(err)
					return
				}
				for _, task := range got {
					if task.Attempts != got[0].Attempts {
						t.Errorf("one reading sees turns %d and %d", got[0].Attempts, task.Attempts)
						return
					}
				}
				if got[0].Attempts < seen {
					t.Errorf("turn %d after turn %d", got[0].Attempts, seen)
					return
				}
				seen = got[0].Attempts
				select {
				case <-stop:
					return
				default:
				}
			}
		})
	}
	for turn := 1; turn <= 100; turn++ {
		for i := range rows {
			rows[i].Attempts = turn
		}
		if err := s.Commit(ctx, scheduler.Ledger{Tasks: rows}); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	wg.Wait()
}

func TestSQLite_CancelledCallEndsAndLeavesTheStoreUsable(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "hub.db"), sqlite.Options{Readers: 1})
	gone, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := s.Apps(gone, spare.KindApp); !errors.Is(err, context.Canceled) {
		t.Errorf("read: %v", err)
	}
	entered := make(chan struct{})
	leave := make(chan struct{})
	if err := s.CreateJob(ctx, spare.Job{ID: "j"}); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		_, err := s.UpdateJob(ctx, "j", func(*spare.Job) error { close(entered); <-leave; return nil })
		if err != nil {
			t.Error(err)
		}
	})
	<-entered
	if err := s.CreateJob(gone, spare.Job{ID: "k"}); !errors.Is(err, context.Canceled) {
		t.Errorf("write while another writes: %v", err)
	}
	close(leave)
	wg.Wait()
	func() {
		defer func() { _ = recover() }()
		_, _ = s.UpdateJob(ctx, "j", func(j *spare.Job) error { panic("in change") })
	}()
	if err := s.CreateJob(ctx, spare.Job{ID: "k"}); err != nil {
		t.Errorf("after a change that panicked: %v", err)
	}
}

func TestSQLite_ClosedStoreSaysSo(t *testing.T) {
	s := open(t, filepath.Join(t.TempDir(), "hub.db"), sqlite.Options{})
	if err := errors.Join(s.Close(), s.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Nodes(ctx); err == nil || !strings.Contains(err.Error(), "closed") {
		t.Errorf("read: %v", err)
	}
	if err := s.CreateJob(ctx, spare.Job{ID: "j"}); err == nil || !strings.Contains(err.Error(), "closed") {
		t.Errorf("write: %v", err)
	}
}

func exec(t *testing.T, path, sql string) {
	t.Helper()
	c, err := sqlite3.OpenFlags(path, sqlite3.OPEN_READWRITE|sqlite3.OPEN_CREATE)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(c.Exec(sql), c.Close()); err != nil {
		t.Fatal(err)
	}
}

func query(t *testing.T, path, sql string) (text string) {
	t.Helper()
	c, err := sqlite3.OpenFlags(path, sqlite3.OPEN_READWRITE)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	st, _, err := c.Prepare(sql)
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	if st.Step() {
		text = st.ColumnText(0)
	}
	if st.Err() != nil {
		t.Fatal(st.Err())
	}
	return text
}
