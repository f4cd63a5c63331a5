package sqlite

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/ncruces/go-sqlite3"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/hub/store"
)

// CreateJob stores a new job.
func (s *Store) CreateJob(ctx context.Context, j spare.Job) error {
	text, err := jsonText(j)
	if err != nil {
		return err
	}
	err = s.write(ctx, func(c *conn) error {
		return c.exec(`INSERT INTO jobs (id, owner, state, created, body) VALUES (?, ?, ?, ?, ?)`,
			string(j.ID), j.Owner, string(j.State), stamp(j.CreatedAt), text)
	})
	if errors.Is(err, sqlite3.CONSTRAINT_UNIQUE) {
		return fmt.Errorf("job %s: %w: there is one with this id", j.ID, store.ErrConflict)
	}
	return err
}

// Job returns one job.
func (s *Store) Job(ctx context.Context, id spare.JobID) (j spare.Job, err error) {
	err = s.read(ctx, func(c *conn) error { return readJob(c, id, &j) })
	return j, err
}

func readJob(c *conn, id spare.JobID, j *spare.Job) error {
	err := c.one(func(st *sqlite3.Stmt) error { return body(st, 0, j) }, `SELECT body FROM jobs WHERE id = ?`, string(id))
	return missing(err, "job", string(id))
}

// missing says what was not found.
func missing(err error, kind, name string) error {
	if errors.Is(err, store.ErrNotFound) {
		return fmt.Errorf("%s %s: %w", kind, name, store.ErrNotFound)
	}
	return err
}

// ListJobs returns the newest jobs first, and how many there are in all.
func (s *Store) ListJobs(ctx context.Context, q store.JobQuery) (jobs []spare.Job, total int, err error) {
	where, args := ` WHERE 1`, []any{}
	if q.Owner != "" {
		where, args = where+` AND owner = ?`, append(args, q.Owner)
	}
	if len(q.States) > 0 {
		where += ` AND state IN (?` + strings.Repeat(`, ?`, len(q.States)-1) + `)`
		for _, st := range q.States {
			args = append(args, string(st))
		}
	}
	limit := q.Limit
	if limit <= 0 {
		limit = -1
	}
	err = s.read(ctx, func(c *conn) error {
		err := c.one(func(st *sqlite3.Stmt) error { total = st.ColumnInt(0); return nil }, `SELECT count(*) FROM jobs`+where, args...)
		if err != nil {
			return err
		}
		return c.rows(func(st *sqlite3.Stmt) error {
			var j spare.Job
			jobs = append(jobs, j)
			return body(st, 0, &jobs[len(jobs)-1])
		}, `SELECT body FROM jobs`+where+` ORDER BY created DESC, number DESC LIMIT ? OFFSET ?`, append(args, limit, max(0, q.Offset))...)
	})
	return jobs, total, err
}

// UpdateJob reads, changes and writes a job in one transaction.
func (s *Store) UpdateJob(ctx context.Context, id spare.JobID, change func(*spare.Job) error) (j spare.Job, err error) {
	err = s.write(ctx, func(c *conn) error {
		if err := readJob(c, id, &j); err != nil {
			return err
		}
		if err := change(&j); err != nil {
			return err
		}
		j.ID = id
		text, err := jsonText(j)
		if err != nil {
			return err
		}
		return c.exec(`UPDATE jobs SET owner = ?, state = ?, created = ?, body = ? WHERE id = ?`,
			j.Owner, string(j.State), stamp(j.CreatedAt), text, string(id))
	})
	if err != nil {
		return spare.Job{}, err
	}
	return j, nil
}

// DeleteJob removes a job with its tasks and attempts.
func (s *Store) DeleteJob(ctx context.Context, id spare.JobID) error {
	return s.write(ctx, func(c *conn) error {
		delete(s.numbers, id)
		if err := c.exec(`DELETE FROM jobs WHERE id = ?`, string(id)); err != nil {
			return err
		}
		if c.Changes() == 0 {
			return missing(store.ErrNotFound, "job", string(id))
		}
		return nil
	})
}

// ReplaceTasks removes a job's tasks and attempts and starts it again with tasks.
func (s *Store) ReplaceTasks(ctx context.Context, id spare.JobID, tasks []spare.Task) error {
	return s.write(ctx, func(c *conn) error {
		job, err := s.number(c, id)
		if err != nil {
			return err
		}
		if job == 0 {
			return missing(store.ErrNotFound, "job", string(id))
		}
		if err := c.exec(`DELETE FROM attempts WHERE job = ?`, job); err != nil {
			return err
		}
		if err := c.exec(`DELETE FROM tasks WHERE job = ?`, job); err != nil {
			return err
		}
		return s.insertTasks(c, tasks)
	})
}

// AddTasks appends tasks to their jobs.
func (s *Store) AddTasks(ctx context.Context, tasks []spare.Task) error {
	if len(tasks) == 0 {
		return nil
	}
	err := s.write(ctx, func(c *conn) error { return s.insertTasks(c, tasks) })
	if errors.Is(err, sqlite3.CONSTRAINT_PRIMARYKEY) {
		return fmt.Errorf("add tasks to job %s: %w: a chunk is there already", tasks[0].Job, store.ErrConflict)
	}
	return err
}

func (s *Store) insertTasks(c *conn, tasks []spare.Task) error {
	for i := range tasks {
		t := &tasks[i]
		job, err := s.number(c, t.Job)
		if err != nil {
			return err
		}
		if job == 0 {
			return missing(store.ErrNotFound, "job", string(t.Job))
		}
		result, err := optional(t.Result != nil, t.Result)
		if err != nil {
			return err
		}
		tries, err := optional(len(t.Tries) > 0, t.Tries)
		if err != nil {
			return err
		}
		err = c.exec(`INSERT INTO tasks (job, chunk, state, attempts, not_before, node, error, result, tries, input_name, input_digest, input_size, params, input)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
			job, t.Chunk, string(t.State), t.Attempts, stamp(t.NotBefore), string(t.Node), t.Error, result, tries,
			t.Input.Name, string(t.Input.Digest), t.Input.Size, raw(t.Params), inline(t.Input))
		if err != nil {
			return err
		}
	}
	return nil
}

// Tasks returns a job's tasks from chunk number from on, in chunk order.
func (s *Store) Tasks(ctx context.Context, id spare.JobID, from, limit int, states ...spare.TaskState) (tasks []spare.Task, err error) {
	sql := `SELECT chunk, state, attempts, not_before, node, error, result, tries, input_name, input_digest, input_size, params, input
		FROM tasks WHERE job = ? AND chunk >= ?`
	args := []any{nil, from}
	if len(states) > 0 {
		sql += ` AND state IN (?` + strings.Repeat(`, ?`, len(states)-1) + `)`
		for _, st := range states {
			args = append(args, string(st))
		}
	}
	if limit <= 0 {
		limit = -1
	}
	args = append(args, limit)
	err = s.read(ctx, func(c *conn) error {
		if args[0], err = number(c, id); err != nil {
			return missing(err, "job", string(id))
		}
		return c.rows(func(st *sqlite3.Stmt) error {
			t, err := readTask(st, id)
			tasks = append(tasks, t)
			return err
		}, sql+` ORDER BY chunk LIMIT ?`, args...)
	})
	return tasks, err
}

// inline is content that is kept with its task, or NULL.
func inline(f spare.File) any {
	if len(f.Inline) == 0 {
		return nil
	}
	return f.Inline
}

func readTask(st *sqlite3.Stmt, job spare.JobID) (spare.Task, error) {
	chunk := st.ColumnInt(0)
	t := spare.Task{
		ID: spare.NewTaskID(job, chunk), Job: job, Chunk: chunk, State: spare.TaskState(st.ColumnText(1)),
		Attempts: st.ColumnInt(2), NotBefore: unstamp(st.ColumnInt64(3)), Node: spare.NodeID(st.ColumnText(4)),
		Error: st.ColumnText(5),
		Input: spare.File{Name: st.ColumnText(8), Digest: spare.Digest(st.ColumnText(9)), Size: st.ColumnInt64(10)},
	}
	if result := st.ColumnRawText(6); result != nil {
		if err := json.Unmarshal(result, &t.Result); err != nil {
			return t, err
		}
	}
	if tries := st.ColumnRawText(7); tries != nil {
		if err := json.Unmarshal(tries, &t.Tries); err != nil {
			return t, err
		}
	}
	if params := st.ColumnText(11); params != "" {
		t.Params = json.RawMessage(params)
	}
	if st.ColumnType(12) != sqlite3.NULL {
		t.Input.Inline = st.ColumnBlob(12, nil)
	}
	return t, nil
}

// CountTasks counts a job's tasks by state.
func (s *Store) CountTasks(ctx context.Context, id spare.JobID) (map[spare.TaskState]int, error) {
	counts := map[spare.TaskState]int{}
	err := s.read(ctx, func(c *conn) error {
		n, err := number(c, id)
		if err != nil {
			return missing(err, "job", string(id))
		}
		return c.rows(func(st *sqlite3.Stmt) error {
			counts[spare.TaskState(st.ColumnText(0))] = st.ColumnInt(1)
			return nil
		}, `SELECT state, count(*) FROM tasks WHERE job = ? GROUP BY state`, n)
	})
	return counts, err
}

// References lists every blob digest that jobs, tasks, images and the catalogue name.
func (s *Store) References(ctx context.Context) (map[spare.Digest]struct{}, error) {
	all := map[spare.Digest]struct{}{}
	add := func(st *sqlite3.Stmt) error {
		if d := st.ColumnText(0); d != "" {
			all[spare.Digest(d)] = struct{}{}
		}
		return nil
	}
	err := s.read(ctx, func(c *conn) error {
		for _, sql := range []string{
			`SELECT bundle FROM apps`,
			`SELECT DISTINCT input_digest FROM tasks WHERE input IS NULL`,
			`SELECT result ->> '$.blob.digest' FROM tasks WHERE result IS NOT NULL`,
			`SELECT try.value ->> '$.checkpoint.digest' FROM tasks, json_each(tasks.tries) try WHERE tasks.tries LIKE '%"checkpoint"%'`,
		} {
			if err := c.rows(add, sql); err != nil {
				return err
			}
		}
		if err := imageParts(c, all); err != nil {
			return err
		}
		return c.rows(func(st *sqlite3.Stmt) error {
			var j spare.Job
			if err := body(st, 0, &j); err != nil {
				return err
			}
			for _, f := range j.Results {
				all[f.Digest] = struct{}{}
			}
			if j.Input != nil {
				all[j.Input.Digest] = struct{}{}
			}
			if j.Plan != nil {
				all[j.Plan.App.Bundle] = struct{}{}
			}
			return nil
		}, `SELECT body FROM jobs`)
	})
	delete(all, "")
	return all, err
}
