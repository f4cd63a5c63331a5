package sessiontest

import (
	"context"
	"testing"
	"time"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/protocol"
)

// identity makes one; keys are cheap.
func identity(t *testing.T) *protocol.Identity {
	t.Helper()
	id, err := protocol.NewIdentity()
	must(t, err)
	return id
}

// openQUIC makes a session over loopback, or over path if it is not nil.
func openQUIC(t *testing.T, path *Path) Pair {
	t.Helper()
	node, hub := identity(t), identity(t)
	ln, err := protocol.ListenQUIC("127.0.0.1:0", hub, protocol.QUICSecrets{}, protocol.QUICOptions{})
	must(t, err)
	t.Cleanup(func() { ln.Close() })
	addr := ln.Addr().String()
	if path != nil {
		addr = path.Open(t, ln.Addr())
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	nodeEnd, err := protocol.DialQUIC(ctx, addr, node, hub.ID())
	must(t, err)
	t.Cleanup(func() { nodeEnd.Close(protocol.CodeNone, "") })
	hubEnd, err := ln.Accept(ctx)
	must(t, err)
	return Pair{Node: nodeEnd, Hub: hubEnd, NodeID: node.ID(), HubID: hub.ID()}
}

// openPipe makes a session in memory.
func openPipe(t *testing.T) (Pair, *protocol.Link) {
	t.Helper()
	nodeID, hubID := spare.NodeID(spare.Sum([]byte("node"))), spare.NodeID(spare.Sum([]byte("hub")))
	node, hub, link := protocol.LinkedPipe(nodeID, hubID)
	t.Cleanup(func() { node.Close(protocol.CodeNone, "") })
	return Pair{Node: node, Hub: hub, NodeID: nodeID, HubID: hubID}, link
}

func TestQUIC(t *testing.T) {
	Run(t, func(t *testing.T) Pair { return openQUIC(t, nil) })
}

func TestQUIC_OverAPathThatLosesAndReorders(t *testing.T) {
	Run(t, func(t *testing.T) Pair { return openQUIC(t, &Path{Loss: 0.01, Delay: 2 * time.Millisecond}) })
}

func TestPipe(t *testing.T) {
	Run(t, func(t *testing.T) Pair { p, _ := openPipe(t); return p })
}

func TestPipe_WithDelay(t *testing.T) {
	Run(t, func(t *testing.T) Pair {
		p, link := openPipe(t)
		link.SetDelay(time.Millisecond)
		return p
	})
}
