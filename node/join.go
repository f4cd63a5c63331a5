package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/node/cache"
	"github.com/spare-compute/spare/node/link"
	"github.com/spare-compute/spare/node/policy"
	"github.com/spare-compute/spare/protocol"
)

// JoinOptions are the owner's choices about a hub. Zero values mean the defaults.
type JoinOptions struct {
	RequireSignature *bool // whether Apps need a trusted publisher's signature; nil: in pools of volunteers
}

// Join is JoinWith without a choice of the owner's.
func Join(ctx context.Context, dir string, t protocol.Ticket, log *slog.Logger) (Hub, error) {
	return JoinWith(ctx, dir, t, JoinOptions{}, log)
}

// JoinWith makes the node in dir belong to the hub that issued the ticket. It returns
// once the hub has welcomed the node and that is on disk. When it fails, nothing is left
// of the try.
func JoinWith(ctx context.Context, dir string, t protocol.Ticket, opt JoinOptions, log *slog.Logger) (hub Hub, err error) {
	if err := t.CheckExpiry(time.Now()); err != nil {
		return Hub{}, err
	}
	undo, err := remember(dir)
	if err != nil {
		return Hub{}, err
	}
	defer func() {
		if err != nil {
			undo()
		}
	}()
	home, err := OpenHome(dir, true)
	if err != nil {
		return Hub{}, err
	}
	defer home.Close()
	id, err := home.Identity()
	if err != nil {
		return Hub{}, err
	}
	prefs, err := policy.Load(home.path("prefs.json"))
	if err != nil {
		return Hub{}, err
	}
	device := Survey(ctx, dir, prefs)
	welcome, err := link.Enrol(ctx, link.Config{
		Hub: t.HubKey, Addresses: t.Addresses, Identity: id, Token: t.Token, Log: log,
		Device: func() spare.Device { return device },
	})
	if err != nil {
		return Hub{}, fmt.Errorf("join hub %q: %w", t.HubName, err)
	}
	hub = Hub{
		Key: t.HubKey, Name: welcome.HubName, Addresses: t.Addresses, Pool: welcome.Pool, Joined: time.Now().UTC(),
		Publishers: t.Publishers, Store: t.Store,
	}
	if hub.Name == "" {
		hub.Name = t.HubName
	}
	// What may run is decided before the file that makes it a hub of this node is there.
	if err := home.pin(t, opt); err != nil {
		return Hub{}, err
	}
	return hub, home.putHub(hub)
}

// remember notes what of a data folder is there already, and returns a function that
// removes the rest.
func remember(dir string) (undo func(), err error) {
	_, err = os.Lstat(dir)
	if errors.Is(err, fs.ErrNotExist) {
		// Folders above that have to be made go too.
		top := dir
		for up := filepath.Dir(top); up != top; up = filepath.Dir(top) {
			if _, err := os.Lstat(up); err == nil {
				break
			}
			top = up
		}
		return func() { _ = cache.RemoveAll(top) }, nil
	}
	if err != nil {
		return nil, &HomeError{dir, fmt.Sprintf("cannot be read: %v", err)}
	}
	var made []string
	for _, name := range []string{"format", "lock", "identity.key", "probes.json", "hubs"} {
		if _, err := os.Lstat(filepath.Join(dir, name)); errors.Is(err, fs.ErrNotExist) {
			made = append(made, name)
		}
	}
	return func() {
		for _, name := range made {
			_ = cache.RemoveAll(filepath.Join(dir, name))
		}
	}, nil
}
