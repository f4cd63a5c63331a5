package sqlite

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"syscall"
	"time"

	"github.com/ncruces/go-sqlite3"

	"github.com/spare-compute/spare/hub/store"
)

// A conn is one connection with the statements it has prepared so far.
type conn struct {
	*sqlite3.Conn
	stmts map[string]*sqlite3.Stmt
}

// Each connection's page cache, in KiB.
const (
	writerCache = 32 << 10
	readerCache = 4 << 10
)

func connect(path string, opts Options, pragmas string) (*conn, error) {
	name, flags := path, sqlite3.OPEN_READWRITE|sqlite3.OPEN_CREATE
	if opts.VFS != "" {
		name = "file:" + (&url.URL{Path: path}).EscapedPath() + "?vfs=" + url.QueryEscape(opts.VFS)
		flags |= sqlite3.OPEN_URI
	}
	c, err := sqlite3.OpenFlags(name, flags)
	if err != nil {
		return nil, err
	}
	if err := c.BusyTimeout(busyTimeout); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	if err := c.Exec(pragmas); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return &conn{Conn: c, stmts: map[string]*sqlite3.Stmt{}}, nil
}

func (c *conn) close() error {
	var errs []error
	for _, s := range c.stmts {
		errs = append(errs, s.Close())
	}
	return errors.Join(append(errs, c.Conn.Close())...)
}

// stmt is sql prepared, with args bound. Whoever gets it resets it: by exec, or rows.
func (c *conn) stmt(sql string, args ...any) (*sqlite3.Stmt, error) {
	s := c.stmts[sql]
	if s == nil {
		var err error
		if s, _, err = c.PrepareFlags(sql, sqlite3.PREPARE_PERSISTENT); err != nil {
			return nil, err
		}
		c.stmts[sql] = s
	}
	for i, arg := range args {
		if err := bind(s, i+1, arg); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func bind(s *sqlite3.Stmt, i int, arg any) error {
	switch v := arg.(type) {
	case nil:
		return s.BindNull(i)
	case string:
		return s.BindText(i, v)
	case raw:
		if v == nil {
			return s.BindNull(i)
		}
		return s.BindRawText(i, v)
	case []byte:
		return s.BindBlob(i, v)
	case int:
		return s.BindInt(i, v)
	case int64:
		return s.BindInt64(i, v)
	case float64:
		return s.BindFloat(i, v)
	case bool:
		return s.BindBool(i, v)
	}
	return fmt.Errorf("cannot bind %T", arg)
}

// exec runs a statement that returns no rows.
func (c *conn) exec(sql string, args ...any) error {
	s, err := c.stmt(sql, args...)
	if err != nil {
		return err
	}
	return s.Exec()
}

// rows calls row for each row of a query until it returns an error.
func (c *conn) rows(row func(*sqlite3.Stmt) error, sql string, args ...any) (err error) {
	s, err := c.stmt(sql, args...)
	if err != nil {
		return err
	}
	for s.Step() {
		if err := row(s); err != nil {
			return errors.Join(err, s.Reset())
		}
	}
	err = s.Err()
	if reset := s.Reset(); err == nil {
		err = reset
	}
	return err
}

// one reads a single row; store.ErrNotFound if there is none.
func (c *conn) one(row func(*sqlite3.Stmt) error, sql string, args ...any) error {
	found := false
	err := c.rows(func(s *sqlite3.Stmt) error {
		found = true
		return row(s)
	}, sql, args...)
	if err == nil && !found {
		err = store.ErrNotFound
	}
	return err
}

// raw is JSON or other text that is bound without a copy into a string.
type raw []byte

// jsonText marshals what the vocabulary defines; that cannot fail but for broken
// RawMessages inside, which must not reach the disk.
func jsonText(v any) (raw, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("store %T: %w", v, err)
	}
	return b, nil
}

// body reads a JSON column.
func body(s *sqlite3.Stmt, col int, into any) error {
	return json.Unmarshal(s.ColumnRawText(col), into)
}

// stamp and unstamp keep times to the nanosecond; the zero time is 0.
func stamp(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

func unstamp(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.Unix(0, n).UTC()
}

// read runs f on a reading connection, in one consistent view of the database.
func (s *Store) read(ctx context.Context, f func(*conn) error) (err error) {
	var c *conn
	select {
	case c = <-s.readers:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { s.readers <- c }()
	if s.closed.Load() {
		return errClosed
	}
	defer c.SetInterrupt(c.SetInterrupt(ctx))
	if err := c.exec(`BEGIN`); err != nil {
		return s.explain(ctx, "read", err)
	}
	defer func() {
		c.SetInterrupt(context.Background())
		if end := c.exec(`COMMIT`); err == nil {
			err = s.explain(ctx, "read", end)
		}
	}()
	return s.explain(ctx, "read", f(c))
}

// write runs f in one transaction on the writing connection. It is durable when write
// returns nil. A context that ends while f runs does not stop it: turns are short, and a
// commit must not be left in doubt.
func (s *Store) write(ctx context.Context, f func(*conn) error) (err error) {
	var c *conn
	select {
	case c = <-s.writer:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { s.writer <- c }()
	if s.closed.Load() {
		return errClosed
	}
	if err = c.exec(`BEGIN IMMEDIATE`); err != nil {
		return s.explain(ctx, "write", err)
	}
	defer func() { // also when f panics
		if !c.GetAutocommit() {
			clear(s.numbers)
			err = errors.Join(err, c.exec(`ROLLBACK`))
		}
	}()
	if err = f(c); err == nil {
		err = c.exec(`COMMIT`)
	}
	return s.explain(ctx, "write", err)
}

// explain puts a database's error into words that say what to do.
func (s *Store) explain(ctx context.Context, verb string, err error) error {
	var code sqlite3.ErrorCode
	switch {
	case err == nil:
		return nil
	case errors.Is(err, sqlite3.INTERRUPT) && ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, sqlite3.FULL), errors.Is(err, syscall.ENOSPC):
		return fmt.Errorf("%s the hub's database %s: %w: free some space there, or move the data folder to a larger disk (%w)", verb, s.path, store.ErrFull, err)
	case errors.As(err, &code):
		return fmt.Errorf("%s the hub's database %s: %w", verb, s.path, err)
	}
	return err
}
