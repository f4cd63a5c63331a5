package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riversqlite"
	"github.com/riverqueue/river/rivermigrate"
	_ "modernc.org/sqlite" // the driver that River's own documentation uses
)

// riverTask is a task that does nothing, with a payload as large as Spare's.
type riverTask struct {
	Payload string `json:"payload"`
}

// Kind is River's name for it.
func (riverTask) Kind() string { return "nothing" }

type riverWorker struct {
	river.WorkerDefaults[riverTask]
	began chan<- time.Time // of tasks that somebody waits for
}

// Work does nothing but say when.
func (w riverWorker) Work(context.Context, *river.Job[riverTask]) error {
	select {
	case w.began <- time.Now():
	default:
	}
	return nil
}

const (
	riverWorkers = 100
	riverBatch   = 500
)

// dispatchRiver runs the tasks through River on SQLite with the same durability. It is a
// library, so queue and workers are one process.
func dispatchRiver(ctx context.Context, p place) (d dispatched, err error) {
	d.tasks = peerTasks
	dir, err := os.MkdirTemp("", "spare-bench-")
	if err != nil {
		return d, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	file := "file:" + filepath.Join(dir, "river.db") + "?_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_pragma=busy_timeout(5000)&_txlock=immediate"
	db, err := sql.Open("sqlite", file)
	if err != nil {
		return d, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	db.SetMaxOpenConns(1)
	driver := riversqlite.New(db)
	migrate, err := rivermigrate.New(driver, nil)
	if err != nil {
		return d, err
	}
	if _, err := migrate.Migrate(ctx, rivermigrate.DirectionUp, nil); err != nil {
		return d, err
	}
	workers := river.NewWorkers()
	started := make(chan time.Time)
	river.AddWorker(workers, riverWorker{began: started})
	queue, err := river.NewClient(driver, &river.Config{
		Workers: workers, Queues: map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: riverWorkers}},
		// Far below the defaults, to its advantage.
		FetchCooldown: 10 * time.Millisecond, FetchPollInterval: 20 * time.Millisecond,
		Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return d, err
	}
	done, unsubscribe := queue.SubscribeConfig(&river.SubscribeConfig{Kinds: []river.EventKind{river.EventKindJobCompleted}, ChanSize: 2 * peerTasks})
	defer unsubscribe()
	payload := riverTask{Payload: strings.Repeat("x", payloadBytes)}

	if d.submit, err = riverSubmit(ctx, queue, payload); err != nil {
		return d, err
	}
	began := time.Now()
	if err := queue.Start(ctx); err != nil {
		return d, err
	}
	for range peerTasks {
		if err := next(ctx, done); err != nil {
			return d, err
		}
	}
	d.work = time.Since(began)
	for range warmUps + latencyTasks {
		began := time.Now()
		if _, err := queue.Insert(ctx, payload, nil); err != nil {
			return d, err
		}
		select {
		case at := <-started:
			d.latency = append(d.latency, at.Sub(began))
		case <-ctx.Done():
			return d, ctx.Err()
		}
		if err := next(ctx, done); err != nil {
			return d, err
		}
	}
	return d, queue.Stop(ctx)
}

func riverSubmit[T any](ctx context.Context, queue *river.Client[T], payload riverTask) (time.Duration, error) {
	began := time.Now()
	for range peerTasks / riverBatch {
		batch := make([]river.InsertManyParams, riverBatch)
		for i := range batch {
			batch[i] = river.InsertManyParams{Args: payload}
		}
		if _, err := queue.InsertManyFast(ctx, batch); err != nil {
			return 0, err
		}
	}
	return time.Since(began), nil
}

func next(ctx context.Context, done <-chan *river.Event) error {
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(30 * time.Second):
		return fmt.Errorf("no task was completed for 30 s")
	}
}
