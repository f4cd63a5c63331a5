package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	_ "github.com/ncruces/go-sqlite3/driver"
)

const (
	sqliteRuns = 3
	sqliteTime = 1500 * time.Millisecond
)

// sqliteDrivers compares the two drivers that need no C compiler, by durable commits.
func sqliteDrivers(ctx context.Context, _ place, rec *recorder) error {
	dir, err := os.MkdirTemp("", "spare-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	var rows []row
	for _, perCommit := range []int{1, 100, 1000} {
		rates := map[string][]time.Duration{} // time for one commit
		for i := range sqliteRuns {
			for _, driver := range []string{"ncruces", "modernc"} {
				one, err := commitTime(ctx, driver, filepath.Join(dir, fmt.Sprint(driver, perCommit, i)), perCommit)
				if err != nil {
					return fmt.Errorf("%s: %w", driver, err)
				}
				rates[driver] = append(rates[driver], one)
			}
		}
		for _, driver := range []string{"ncruces", "modernc"} {
			rate := 1 / median(rates[driver]).Seconds()
			rows = append(rows, row{fmt.Sprintf("%s, %d rows a commit", driver, perCommit), []figure{
				fig(rate, "commits/s", "%.0f"), fig(rate*float64(perCommit), "rows/s", "%.0f"),
			}})
		}
	}
	return rec.table("sqlite", "SQLite driver", []string{"commits/s", "rows/s"}, rows)
}

// commitTime is the mean time of a commit of rows as the ledger writes them.
func commitTime(ctx context.Context, driver, path string, perCommit int) (mean time.Duration, err error) {
	name := map[string]string{"ncruces": "sqlite3", "modernc": "sqlite"}[driver]
	db, err := sql.Open(name, "file:"+path)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, db.Close(), os.Remove(path)) }()
	db.SetMaxOpenConns(1)
	for _, q := range []string{
		"PRAGMA journal_mode=WAL", "PRAGMA synchronous=FULL",
		"CREATE TABLE task (id INTEGER PRIMARY KEY, state INTEGER, lease INTEGER, body BLOB)", "CREATE INDEX by_state ON task (state, id)",
	} {
		if _, err := db.ExecContext(ctx, q); err != nil {
			return 0, err
		}
	}
	insert, err := db.PrepareContext(ctx, "INSERT INTO task VALUES (?, 0, 0, ?)")
	if err != nil {
		return 0, err
	}
	defer insert.Close()
	body := make([]byte, 200)
	began, commits, id := time.Now(), 0, 0
	for time.Since(began) < sqliteTime {
		tx, err := db.BeginTx(ctx, nil)
		if err != nil {
			return 0, err
		}
		stmt := tx.StmtContext(ctx, insert)
		for range perCommit {
			id++
			if _, err := stmt.ExecContext(ctx, id, body); err != nil {
				return 0, errors.Join(err, tx.Rollback())
			}
		}
		if err := tx.Commit(); err != nil {
			return 0, err
		}
		commits++
	}
	return time.Since(began) / time.Duration(commits), nil
}
