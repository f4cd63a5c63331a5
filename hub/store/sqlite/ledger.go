package sqlite

import (
	"context"
	"encoding/json"
	"errors"

	"github.com/ncruces/go-sqlite3"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/hub/scheduler"
	"github.com/spare-compute/spare/hub/store"
)

// number is a job's number, or 0 if there is no such job. Only while writing.
func (s *Store) number(c *conn, id spare.JobID) (int64, error) {
	if n, ok := s.numbers[id]; ok {
		return n, nil
	}
	n, err := number(c, id)
	if errors.Is(err, store.ErrNotFound) {
		return 0, nil
	}
	if err == nil {
		if len(s.numbers) > 10000 {
			clear(s.numbers)
		}
		s.numbers[id] = n
	}
	return n, err
}

func number(c *conn, id spare.JobID) (n int64, err error) {
	err = c.one(func(st *sqlite3.Stmt) error { n = st.ColumnInt64(0); return nil }, `SELECT number FROM jobs WHERE id = ?`, string(id))
	return n, err
}

// Commit writes one turn. A task's input and params are those it was added with.
func (s *Store) Commit(ctx context.Context, batch scheduler.Ledger) error {
	if batch.Empty() {
		return nil
	}
	return s.write(ctx, func(c *conn) error {
		for i := range batch.Tasks {
			if err := s.updateTask(c, &batch.Tasks[i]); err != nil {
				return err
			}
		}
		for i := range batch.Attempts {
			if err := s.putAttempt(c, &batch.Attempts[i]); err != nil {
				return err
			}
		}
		for _, r := range batch.Records {
			err := c.exec(`INSERT OR REPLACE INTO records VALUES (?, ?, ?, ?, ?, ?, ?)`,
				string(r.Node), r.App, r.Finished, r.Abandoned, r.Right, r.Wrong, r.Failed)
			if err != nil {
				return err
			}
		}
		for _, id := range batch.Closed {
			job, err := s.number(c, id)
			if err != nil {
				return err
			}
			err = c.exec(`UPDATE tasks SET state = 'cancelled', not_before = 0
				WHERE job = ? AND state IN ('ready', 'running', 'verifying')`, job)
			if err != nil {
				return err
			}
		}
		return nil
	})
}

func (s *Store) updateTask(c *conn, t *spare.Task) error {
	job, err := s.number(c, t.Job)
	if err != nil || job == 0 {
		return err
	}
	result, err := optional(t.Result != nil, t.Result)
	if err != nil {
		return err
	}
	tries, err := optional(len(t.Tries) > 0, t.Tries)
	if err != nil {
		return err
	}
	return c.exec(`UPDATE tasks SET state = ?, attempts = ?, not_before = ?, node = ?, error = ?, result = ?, tries = ?
		WHERE job = ? AND chunk = ?`,
		string(t.State), t.Attempts, stamp(t.NotBefore), string(t.Node), t.Error, result, tries, job, t.Chunk)
}

// optional is v as JSON if there is any, else NULL.
func optional(some bool, v any) (raw, error) {
	if !some {
		return nil, nil
	}
	return jsonText(v)
}

// ending is the JSON of how an attempt ended.
type ending struct {
	ExitCode int           `json:"exit_code,omitempty"`
	Message  string        `json:"message,omitempty"`
	Usage    spare.Usage   `json:"usage"`
	Result   *spare.Result `json:"result,omitempty"`
}

func (s *Store) putAttempt(c *conn, a *spare.Attempt) error {
	job, err := s.number(c, a.Job)
	if err != nil || job == 0 {
		return err
	}
	var ended int64
	if a.Ended != nil {
		ended = stamp(*a.Ended)
	}
	e := ending{a.ExitCode, a.Message, a.Usage, a.Result}
	end, err := optional(e != ending{}, e)
	if err != nil {
		return err
	}
	var log any
	if a.Log != "" {
		log = a.Log
	}
	return c.exec(`INSERT INTO attempts (job, chunk, number, node, granted, expires, ended, outcome, body, log)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT DO UPDATE SET node = excluded.node, granted = excluded.granted, expires = excluded.expires,
			ended = excluded.ended, outcome = excluded.outcome, body = excluded.body, log = excluded.log`,
		job, a.Chunk, a.Number, string(a.Node), stamp(a.Granted), stamp(a.Expires), ended, string(a.Outcome), end, log)
}

// Records returns every node's record with every App.
func (s *Store) Records(ctx context.Context) (all []spare.Record, err error) {
	err = s.read(ctx, func(c *conn) error {
		return c.rows(func(st *sqlite3.Stmt) error {
			all = append(all, spare.Record{
				Node: spare.NodeID(st.ColumnText(0)), App: st.ColumnText(1), Finished: st.ColumnFloat(2),
				Abandoned: st.ColumnFloat(3), Right: st.ColumnFloat(4), Wrong: st.ColumnFloat(5), Failed: st.ColumnFloat(6),
			})
			return nil
		}, `SELECT node, app, finished, abandoned, "right", wrong, failed FROM records ORDER BY node, app`)
	})
	return all, err
}

const attemptColumns = `SELECT j.id, a.chunk, a.number, a.node, a.granted, a.expires, a.ended, a.outcome, a.body, a.log
	FROM attempts a JOIN jobs j ON j.number = a.job `

// Attempts returns a job's attempts in the order they were granted.
func (s *Store) Attempts(ctx context.Context, job spare.JobID) (all []spare.Attempt, err error) {
	err = s.read(ctx, func(c *conn) error {
		n, err := number(c, job)
		if err != nil {
			return err
		}
		return c.rows(collectAttempts(&all), attemptColumns+`WHERE a.job = ? ORDER BY a.granted, a.chunk, a.number`, n)
	})
	return all, err
}

// CountAttempts counts a job's attempts by outcome.
func (s *Store) CountAttempts(ctx context.Context, job spare.JobID) (map[spare.Outcome]int, error) {
	counts := map[spare.Outcome]int{}
	err := s.read(ctx, func(c *conn) error {
		n, err := number(c, job)
		if err != nil {
			return missing(err, "job", string(job))
		}
		return c.rows(func(st *sqlite3.Stmt) error {
			counts[spare.Outcome(st.ColumnText(0))] = st.ColumnInt(1)
			return nil
		}, `SELECT outcome, count(*) FROM attempts WHERE job = ? GROUP BY outcome`, n)
	})
	return counts, err
}

// LiveAttempts returns the attempts without an outcome of every job.
func (s *Store) LiveAttempts(ctx context.Context) (all []spare.Attempt, err error) {
	err = s.read(ctx, func(c *conn) error {
		return c.rows(collectAttempts(&all), attemptColumns+`WHERE a.outcome = '' ORDER BY a.job, a.chunk, a.number`)
	})
	return all, err
}

func collectAttempts(all *[]spare.Attempt) func(*sqlite3.Stmt) error {
	return func(st *sqlite3.Stmt) error {
		a := spare.Attempt{
			Job: spare.JobID(st.ColumnText(0)), Chunk: st.ColumnInt(1), Number: st.ColumnInt(2),
			Node: spare.NodeID(st.ColumnText(3)), Granted: unstamp(st.ColumnInt64(4)), Expires: unstamp(st.ColumnInt64(5)),
			Outcome: spare.Outcome(st.ColumnText(7)), Log: st.ColumnText(9),
		}
		a.Task = spare.NewTaskID(a.Job, a.Chunk)
		a.ID = spare.NewAttemptID(a.Task, a.Number)
		if ended := st.ColumnInt64(6); ended != 0 {
			t := unstamp(ended)
			a.Ended = &t
		}
		if end := st.ColumnRawText(8); end != nil {
			var e ending
			if err := json.Unmarshal(end, &e); err != nil {
				return err
			}
			a.ExitCode, a.Message, a.Usage, a.Result = e.ExitCode, e.Message, e.Usage, e.Result
		}
		*all = append(*all, a)
		return nil
	}
}
