// Package events is the hub's news: what changed, for whoever watches a job or the
// fleet. Publishers never wait for readers; a reader too slow to keep up is cut off and
// comes back with the id of the last event it saw. Nothing depends on an event being
// seen: the store holds the truth.
package events

import (
	"context"
	"sync"
	"time"

	"github.com/spare-compute/spare"
)

// The types of an Event.
const (
	JobState    = "job.state"
	JobProgress = "job.progress"
	TaskDone    = "task.done"
	TaskRetried = "task.retried"
	NodeUp      = "node.up"
	NodeDown    = "node.down"
	NodeChanged = "node.changed"
)

// An Event says that something changed. Data marshals to JSON.
type Event struct {
	ID   uint64       `json:"id"` // rising; survives a restart of the hub
	Time time.Time    `json:"time"`
	Type string       `json:"type"`
	Job  spare.JobID  `json:"job,omitempty"`
	Node spare.NodeID `json:"node,omitempty"`
	Data any          `json:"data,omitempty"`
}

const (
	remembered = 4096 // events kept for readers that come back
	lag        = 1024 // events a reader may be behind
)

// A Bus carries events from publishers to subscribers.
type Bus struct {
	mu     sync.Mutex
	last   uint64
	recent []Event // the newest, oldest first
	subs   map[*subscriber]struct{}
}

type subscriber struct {
	ch    chan Event
	match func(Event) bool
}

// New returns an empty bus. Ids start from the clock in milliseconds, so that a reader
// of an earlier run of the hub never mistakes new events for seen ones.
func New(now time.Time) *Bus {
	return &Bus{last: uint64(now.UnixMilli()), subs: map[*subscriber]struct{}{}}
}

// Publish numbers ev and hands it to every subscriber it matches.
func (b *Bus) Publish(ev Event) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.last++
	ev.ID = b.last
	if ev.Time.IsZero() {
		ev.Time = time.Now()
	}
	if len(b.recent) >= 2*remembered {
		b.recent = append(b.recent[:0], b.recent[len(b.recent)-remembered:]...)
	}
	b.recent = append(b.recent, ev)
	for s := range b.subs {
		if s.match != nil && !s.match(ev) {
			continue
		}
		select {
		case s.ch <- ev:
		default: // too slow: cut off, and let it ask again
			b.drop(s)
		}
	}
}

// Subscribe returns the events after id `after` that are still remembered (0 = only new
// ones) and all later ones that match. The channel closes when ctx ends or the reader
// falls too far behind.
func (b *Bus) Subscribe(ctx context.Context, after uint64, match func(Event) bool) <-chan Event {
	b.mu.Lock()
	defer b.mu.Unlock()
	var missed []Event
	if after > 0 {
		for _, ev := range b.recent {
			if ev.ID > after && (match == nil || match(ev)) {
				missed = append(missed, ev)
			}
		}
	}
	s := &subscriber{ch: make(chan Event, len(missed)+lag), match: match}
	for _, ev := range missed {
		s.ch <- ev
	}
	b.subs[s] = struct{}{}
	context.AfterFunc(ctx, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.drop(s)
	})
	return s.ch
}

func (b *Bus) drop(s *subscriber) {
	if _, ok := b.subs[s]; ok {
		delete(b.subs, s)
		close(s.ch)
	}
}
