package gateway

import (
	"context"
	"errors"
	"time"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/hub/store"
)

// byeRemoved is the Goodbye's code for a node that the operator removed.
const byeRemoved = "removed"

const removedReason = "this hub's operator removed this machine; to work for it again, join with a new ticket (on the hub: spare-hub ticket)"

// Remove makes the hub forget a node: it ends the node's session with that reason, and
// from then on the node is a stranger who needs a ticket. What it holds is queued again
// when its leases expire, as with a node that died. store.ErrNotFound says that there is
// no such node.
func (g *Gateway) Remove(ctx context.Context, id spare.NodeID) error {
	if err := g.cfg.Store.DeleteNode(ctx, id); err != nil {
		return err
	}
	for {
		if err := g.sendAway(ctx, id); err != nil {
			return err
		}
		// A device report, or the note of when it was last seen, that was under way
		// meanwhile has stored it anew.
		err := g.cfg.Store.DeleteNode(ctx, id)
		if errors.Is(err, store.ErrNotFound) && g.session(id) == nil {
			break
		}
		if err != nil && !errors.Is(err, store.ErrNotFound) {
			return err
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.states, id)
	return nil
}

// sendAway ends a node's session, if it has one, and returns when that is over.
func (g *Gateway) sendAway(ctx context.Context, id spare.NodeID) error {
	s := g.session(id)
	if s == nil {
		return nil
	}
	s.end(byeRemoved, removedReason, false)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for g.session(id) == s {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}
