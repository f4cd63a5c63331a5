// Package sqlite keeps a hub's memory in one SQLite database: write-ahead log, synced at
// every commit, one writing connection and a few that read beside it. The hub's wiring
// opens it; everything else sees store.Store. It decides nothing and keeps no cache of
// rows.
package sqlite

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/ncruces/go-sqlite3"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/hub/store"
)

//go:embed migrations/*.sql
var migrations embed.FS

// busyTimeout is how long a connection waits for another process to let go of the file:
// an operator's sqlite3 shell, a backup.
const busyTimeout = 5 * time.Second

var errClosed = errors.New("the hub's database is closed")

// Options for Open. The zero value is right for a hub.
type Options struct {
	// VFS names a registered file layer to use in place of the operating system's: tests
	// put faults there.
	VFS string
	// Readers is how many connections read beside the writer. Default 2 to 4, by cores.
	Readers int
}

// Store is a store.Store in one SQLite file.
type Store struct {
	path    string
	writer  chan *conn // holds the one writing connection while nobody writes
	readers chan *conn
	numbers map[spare.JobID]int64 // jobs' numbers; guarded by holding the writer
	closed  atomic.Bool
}

var _ store.Store = (*Store)(nil)

// Open opens the database at path, creating it and bringing it up to date as needed.
// store.ErrNewer says that a later release has written it.
func Open(ctx context.Context, path string, opts Options) (*Store, error) {
	if opts.Readers <= 0 {
		opts.Readers = min(4, max(2, runtime.GOMAXPROCS(0)))
	}
	s := &Store{
		path: path, numbers: map[spare.JobID]int64{},
		writer: make(chan *conn, 1), readers: make(chan *conn, opts.Readers),
	}
	w, err := connect(path, opts, fmt.Sprintf(`
		PRAGMA journal_mode = WAL;
		PRAGMA synchronous = FULL;
		PRAGMA foreign_keys = ON;
		PRAGMA temp_store = MEMORY;
		PRAGMA wal_autocheckpoint = 4000; -- pages, 16 MB
		PRAGMA cache_size = -%d;`, writerCache))
	if err != nil {
		return nil, s.explain(ctx, "open", err)
	}
	if err := s.prepare(ctx, w); err != nil {
		return nil, errors.Join(err, w.close())
	}
	s.writer <- w
	for range opts.Readers {
		r, err := connect(path, opts, fmt.Sprintf(`PRAGMA query_only = ON; PRAGMA temp_store = MEMORY; PRAGMA cache_size = -%d;`, readerCache))
		if err != nil {
			return nil, errors.Join(s.explain(ctx, "open", err), s.close(len(s.readers)))
		}
		s.readers <- r
	}
	return s, nil
}

// prepare checks that the database is one this program may write, and migrates it.
func (s *Store) prepare(ctx context.Context, c *conn) error {
	var mode string
	if err := c.one(func(st *sqlite3.Stmt) error { mode = st.ColumnText(0); return nil }, `PRAGMA journal_mode`); err != nil {
		return s.explain(ctx, "open", err)
	}
	if mode != "wal" {
		return fmt.Errorf("open the hub's database %s: its file system does not support a write-ahead log (journal mode is %s): keep the data folder on a local disk", s.path, mode)
	}
	return s.explain(ctx, "migrate", s.migrate(c))
}

// migrate runs the scripts whose number is above the database's user_version, each in a
// transaction of its own that raises it.
func (s *Store) migrate(c *conn) error {
	scripts, err := fs.Glob(migrations, "migrations/*.sql")
	if err != nil {
		return err
	}
	var at int
	if err := c.one(func(st *sqlite3.Stmt) error { at = st.ColumnInt(0); return nil }, `PRAGMA user_version`); err != nil {
		return err
	}
	if at > len(scripts) {
		return fmt.Errorf("open the hub's database %s: %w: it has format %d, this program (%s) knows up to %d; run the newer version, or restore a backup made before it",
			s.path, store.ErrNewer, at, spare.Version, len(scripts))
	}
	for i := at; i < len(scripts); i++ {
		sql, err := migrations.ReadFile(scripts[i])
		if err != nil {
			return err
		}
		step := fmt.Sprintf("BEGIN IMMEDIATE;\n%s\nPRAGMA user_version = %d;\nCOMMIT;", sql, i+1)
		if err := c.Exec(step); err != nil {
			if !c.GetAutocommit() {
				err = errors.Join(err, c.Exec(`ROLLBACK`))
			}
			return fmt.Errorf("migrate to format %d: %w", i+1, err)
		}
	}
	return nil
}

// Close waits for what runs and closes the database.
func (s *Store) Close() error {
	if s.closed.Swap(true) {
		return nil
	}
	return s.close(cap(s.readers))
}

// close closes the readers first, so that the writer, as the last, folds the log into
// the database file.
func (s *Store) close(readers int) error {
	var errs []error
	for range readers {
		c := <-s.readers
		errs = append(errs, c.close())
		defer func() { s.readers <- c }() // for callers that wait: they find it closed
	}
	c := <-s.writer
	errs = append(errs, c.close())
	s.writer <- c
	return errors.Join(errs...)
}
