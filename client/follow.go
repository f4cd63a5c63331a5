package client

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/spare-compute/spare"
)

// Event is something that happened at the hub.
type Event struct {
	ID   string          `json:"-"` // to go on after
	Type string          `json:"type"`
	Time time.Time       `json:"time"`
	Job  spare.JobID     `json:"job"`
	Node spare.NodeID    `json:"node"`
	Data json.RawMessage `json:"data"`
}

// Events calls each with what happens to a job (or, with job "", to the whole hub) until
// ctx ends, each returns an error, or the stream ends, which is no error: ask again with
// the id of the last event.
func (c *Client) Events(ctx context.Context, job, last string, each func(Event) error) error {
	path := "/v1/events"
	if job != "" {
		path = jobPath(job) + "/events"
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	req, err := c.request(ctx, get, path, nil)
	if err != nil {
		return err
	}
	req.Header.Set("Accept", "text/event-stream")
	if last != "" {
		req.Header.Set("Last-Event-ID", last)
	}
	watch := time.AfterFunc(stall, cancel) // four heartbeats
	defer watch.Stop()
	resp, err := c.plain.Do(req.Request)
	if err != nil {
		return c.unreachable(ctx, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode >= 300 {
		return readError(resp)
	}
	return readEvents(resp.Body, func() { watch.Reset(stall) }, each)
}

// readEvents reads server-sent events. What follows the last blank line when the stream
// is cut is not whole and is dropped.
func readEvents(r io.Reader, alive func(), each func(Event) error) error {
	const longest = 4 << 20
	in := bufio.NewScanner(r)
	in.Buffer(nil, longest)
	var (
		e    Event
		data strings.Builder
	)
	for in.Scan() {
		alive()
		field, value, _ := strings.Cut(in.Text(), ":")
		value = strings.TrimPrefix(value, " ")
		switch field {
		case "id":
			e.ID = value
		case "event":
			e.Type = value
		case "data":
			if data.Len() > 0 {
				data.WriteByte('\n')
			}
			data.WriteString(value)
		case "":
			if in.Text() != "" || data.Len() == 0 {
				continue // a comment, or a blank line with nothing before it
			}
			kind := e.Type
			if err := json.Unmarshal([]byte(data.String()), &e); err != nil {
				return err
			}
			e.Type = kind
			if err := each(e); err != nil {
				return err
			}
			e = Event{}
			data.Reset()
		}
	}
	return in.Err()
}

// How often Follow asks: often enough to look alive, never more than the hub can bear.
const (
	askSoonest = 250 * time.Millisecond
	askLatest  = 2 * time.Second
)

// Follow calls each with a job's progress whenever it moved, until the job is final, and
// returns it then. Events say when to ask; without them it asks every two seconds. A hub
// that goes away is waited for.
func (c *Client) Follow(ctx context.Context, job string, each func(Progress)) (Job, error) {
	ctx, cancel := context.WithCancel(ctx)
	moved := make(chan struct{}, 1)
	listened := make(chan struct{})
	go func() {
		defer close(listened)
		c.listen(ctx, job, moved)
	}()
	defer func() {
		cancel()
		<-listened
	}()
	for {
		asked := time.Now()
		p, err := c.Progress(ctx, job)
		if err != nil {
			return Job{}, err
		}
		each(p)
		if Final(p.State) {
			return c.Job(ctx, job)
		}
		late := time.NewTimer(askLatest)
		select {
		case <-moved:
		case <-late.C:
		case <-ctx.Done():
		}
		late.Stop()
		if err := pause(ctx, askSoonest-time.Since(asked)); err != nil {
			return Job{}, err
		}
	}
}

// listen signals moved at each event of the job until ctx ends.
func (c *Client) listen(ctx context.Context, job string, moved chan<- struct{}) {
	last := ""
	for try := 0; ctx.Err() == nil; try++ {
		err := c.Events(ctx, job, last, func(e Event) error {
			try = 0
			if e.ID != "" {
				last = e.ID
			}
			select {
			case moved <- struct{}{}:
			default:
			}
			return nil
		})
		var refusal *Error
		if errors.As(err, &refusal) && refusal.Status < http.StatusInternalServerError {
			return // asking will say the same
		}
		if pause(ctx, backoff(try)) != nil {
			return
		}
	}
}
