package api

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/hub/events"
)

// heartbeat is how often a silent event stream says that it lives, so that proxies and
// readers do not take it for dead.
const heartbeat = 15 * time.Second

// jobEvents streams what happens to one job.
func (s *server) jobEvents(w http.ResponseWriter, r *http.Request) error {
	j, err := s.jobOf(r, false)
	if err != nil {
		return err
	}
	return s.stream(w, r, &j.ID, func(e events.Event) bool { return e.Job == j.ID })
}

// allEvents streams what happens to the fleet and to the jobs that the caller may read.
func (s *server) allEvents(w http.ResponseWriter, r *http.Request) error {
	return s.stream(w, r, nil, nil)
}

// stream sends events until the reader leaves, falls behind or the hub stops. A stream
// of one job begins with where the job is, so that a reader who comes back after the
// bus has forgotten what it missed still knows.
func (s *server) stream(w http.ResponseWriter, r *http.Request, job *spare.JobID, match func(events.Event) bool) error {
	var after uint64
	if given := r.Header.Get("Last-Event-ID"); given != "" {
		n, err := strconv.ParseUint(given, 10, 64)
		if err != nil {
			return refuse(http.StatusBadRequest, "Last-Event-ID %.40q: want the id of an event of this stream", given)
		}
		after = n
	}
	ch := s.Events.Subscribe(r.Context(), after, match)
	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no") // a proxy in front must not hold events back
	out := sse{w: w, rc: http.NewResponseController(w)}
	defer func() { _ = out.rc.SetWriteDeadline(time.Time{}) }()
	if out.send("retry: 2000\n\n") != nil {
		return nil
	}
	if job != nil && s.snapshot(r, out) != nil {
		return nil
	}
	beat := time.NewTicker(heartbeat)
	defer beat.Stop()
	owners := map[spare.JobID]bool{}
	for {
		var err error
		select {
		case <-beat.C:
			err = out.send(": still here\n\n")
		case e, open := <-ch:
			if !open {
				return nil
			}
			if job == nil && !s.mine(r, owners, e.Job) {
				continue
			}
			err = out.event(e)
		}
		if err != nil {
			return nil // the reader has gone
		}
	}
}

// mine reports whether the caller may hear of a job, and remembers.
func (s *server) mine(r *http.Request, known map[spare.JobID]bool, id spare.JobID) bool {
	if id == "" {
		return true
	}
	ok, asked := known[id]
	if !asked {
		j, err := s.Store.Job(r.Context(), id)
		ok = err == nil && sees(caller(r.Context()), j.Owner)
		known[id] = ok
	}
	return ok
}

func (s *server) snapshot(r *http.Request, out sse) error {
	j, p, err := s.progressOf(r)
	if err != nil {
		return err
	}
	data, err := json.Marshal(showProgress(j, p))
	if err != nil {
		return err
	}
	return out.send("event: job.snapshot\ndata: %s\n\n", data)
}

// sse writes a stream of server-sent events.
type sse struct {
	w  http.ResponseWriter
	rc *http.ResponseController
}

func (o sse) send(format string, args ...any) error {
	_ = o.rc.SetWriteDeadline(time.Now().Add(bodyPause))
	if _, err := fmt.Fprintf(o.w, format, args...); err != nil {
		return err
	}
	return o.rc.Flush()
}

func (o sse) event(e events.Event) error {
	data, err := json.Marshal(e)
	if err != nil {
		return err
	}
	return o.send("id: %d\nevent: %s\ndata: %s\n\n", e.ID, e.Type, data)
}
