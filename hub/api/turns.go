package api

import (
	"context"
	"sync"
)

// turns give one request at a time the things that clients send in pieces.
type turns struct {
	mu     sync.Mutex
	active map[string]*transfer
}

// A transfer has what is being sent to itself while it lasts.
type transfer struct {
	interrupt func() // makes it end soon
	done      chan struct{}
}

// claim waits until nothing else works on a thing. Whoever does is told to stop: a client
// that comes again has given up its former connection, even if this hub has not noticed
// yet.
func (c *turns) claim(ctx context.Context, thing string, interrupt func()) (release func(), err error) {
	mine := &transfer{interrupt: interrupt, done: make(chan struct{})}
	for {
		c.mu.Lock()
		other := c.active[thing]
		if other == nil {
			if c.active == nil {
				c.active = map[string]*transfer{}
			}
			c.active[thing] = mine
			c.mu.Unlock()
			return func() {
				c.mu.Lock()
				defer c.mu.Unlock()
				delete(c.active, thing)
				close(mine.done)
			}, nil
		}
		c.mu.Unlock()
		other.interrupt()
		select {
		case <-other.done:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}
