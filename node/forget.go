package node

import (
	"context"
	"sync"
)

// gone are the images that the store of images removed and the engine may still have.
type gone struct {
	mu   sync.Mutex
	ids  []string
	news chan struct{}
}

func newGone() *gone { return &gone{news: make(chan struct{}, 1)} }

// add notes one, without waiting: the store is locked meanwhile.
func (g *gone) add(id string) {
	g.mu.Lock()
	g.ids = append(g.ids, id)
	g.mu.Unlock()
	select {
	case g.news <- struct{}{}:
	default:
	}
}

func (g *gone) take() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	ids := g.ids
	g.ids = nil
	return ids
}

// forgetImages has the engine let go of what the store of images let go of. An image that
// is asked for again meanwhile is loaded again.
func (n *Node) forgetImages(ctx context.Context, forget func(ctx context.Context, id string) error) {
	for {
		select {
		case <-n.gone.news:
		case <-ctx.Done():
			return
		}
		for _, id := range n.gone.take() {
			if err := forget(ctx, id); err != nil && ctx.Err() == nil {
				n.log.Warn("the engine keeps an image that is not needed any more", "image", id, "error", err)
			}
		}
	}
}
