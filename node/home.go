package node

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gofrs/flock"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/disk"
	"github.com/spare-compute/spare/node/cache"
	"github.com/spare-compute/spare/node/work"
	"github.com/spare-compute/spare/protocol"
)

// A Home is a node's data folder, held by this process alone:
//
//	format            the version of this layout
//	lock              held while a process uses the folder
//	identity.key      the node's key, readable by its owner only
//	prefs.json        the owner's preferences (package policy)
//	probes.json       which tools work here (package device)
//	cache/            inputs and Apps by digest (package cache)
//	guestbook/        what ran here (package guestbook)
//	hubs/<key>/       a folder for each hub: hub.json, trust.json, results/ (package work)
//	work/             scratch, emptied at start
type Home struct {
	dir  string
	lock *flock.Flock
}

// homeFormat is the layout this release reads and writes.
const homeFormat = 1

// A HomeError says that a data folder cannot be used as it is.
type HomeError struct {
	Dir    string
	Reason string
}

func (e *HomeError) Error() string { return fmt.Sprintf("data folder %s: %s", e.Dir, e.Reason) }

// DefaultData is the data folder where none is named: the system's own for root and
// services, the user's otherwise.
func DefaultData() string {
	switch runtime.GOOS {
	case "windows":
		if dir := os.Getenv("ProgramData"); dir != "" {
			return filepath.Join(dir, "Spare", "node")
		}
	case "darwin":
		if os.Geteuid() == 0 {
			return "/Library/Application Support/Spare/node"
		}
		if dir, err := os.UserConfigDir(); err == nil {
			return filepath.Join(dir, "Spare", "node")
		}
	default:
		if os.Geteuid() == 0 {
			return "/var/lib/spare-node"
		}
		if dir := os.Getenv("XDG_DATA_HOME"); filepath.IsAbs(dir) {
			return filepath.Join(dir, "spare-node")
		}
		if dir, err := os.UserHomeDir(); err == nil {
			return filepath.Join(dir, ".local", "share", "spare-node")
		}
	}
	return "spare-node-data"
}

// OpenHome takes a data folder for this process. With create, a missing one is made.
func OpenHome(dir string, create bool) (*Home, error) {
	h := &Home{dir: dir}
	if create {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, &HomeError{dir, fmt.Sprintf("cannot be made: %v", err)}
		}
	} else if err := exists(dir); err != nil {
		return nil, err
	}
	h.lock = flock.New(h.path("lock"), flock.SetPermissions(0o600))
	locked, err := h.lock.TryLock()
	if err != nil {
		return nil, &HomeError{dir, fmt.Sprintf("cannot be locked: %v", err)}
	}
	if !locked {
		return nil, &HomeError{dir, "it is in use by another process; stop that one first, or name another folder with --data"}
	}
	if err := h.checkFormat(create); err != nil {
		h.Close()
		return nil, err
	}
	return h, nil
}

func exists(dir string) error {
	if _, err := os.Stat(filepath.Join(dir, "identity.key")); errors.Is(err, fs.ErrNotExist) {
		return &HomeError{dir, "there is no node here yet; join a hub first (spare-node join TICKET)"}
	} else if err != nil {
		return &HomeError{dir, fmt.Sprintf("cannot be read: %v", err)}
	}
	return nil
}

func (h *Home) checkFormat(create bool) error {
	raw, err := os.ReadFile(h.path("format"))
	if errors.Is(err, fs.ErrNotExist) && create {
		if err := disk.Replace(h.path("format"), []byte(strconv.Itoa(homeFormat)+"\n")); err != nil {
			return &HomeError{h.dir, fmt.Sprintf("cannot be written: %v", err)}
		}
		return nil
	}
	if err != nil {
		return &HomeError{h.dir, fmt.Sprintf("its format file cannot be read: %v", err)}
	}
	version, err := strconv.Atoi(strings.TrimSpace(string(raw)))
	switch {
	case err != nil || version < 1:
		return &HomeError{h.dir, "its format file makes no sense, so this may not be a node's data folder"}
	case version > homeFormat:
		return &HomeError{h.dir, fmt.Sprintf("it was written by a newer version of spare-node (format %d, this program knows %d); update this program", version, homeFormat)}
	}
	return nil
}

// Close lets other processes use the folder.
func (h *Home) Close() { _ = h.lock.Unlock() }

func (h *Home) path(names ...string) string {
	return filepath.Join(append([]string{h.dir}, names...)...)
}

// Dir is where the folder is.
func (h *Home) Dir() string { return h.dir }

// Identity is the node's key, made at first use.
func (h *Home) Identity() (*protocol.Identity, error) {
	return protocol.LoadIdentity(h.path("identity.key"))
}

// A Hub is what a node knows of one it has joined.
type Hub struct {
	Key        spare.NodeID `json:"key"`
	Name       string       `json:"name"`
	Addresses  []string     `json:"addresses"`
	Pool       string       `json:"pool"`
	Joined     time.Time    `json:"joined"`
	Publishers [][]byte     `json:"publishers,omitempty"`
	Store      string       `json:"store,omitempty"`
}

// Hubs lists the joined hubs in a data folder, oldest first. It needs no lock.
func Hubs(dir string) ([]Hub, error) {
	entries, err := os.ReadDir(filepath.Join(dir, "hubs"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, &HomeError{dir, fmt.Sprintf("its hubs cannot be listed: %v", err)}
	}
	var hubs []Hub
	for _, e := range entries {
		path := filepath.Join(dir, "hubs", e.Name(), "hub.json")
		raw, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue // a join that did not come to its end
		}
		var hub Hub
		if err == nil {
			err = json.Unmarshal(raw, &hub)
		}
		if err == nil {
			_, err = spare.ParseNodeID(string(hub.Key))
		}
		if err != nil {
			return nil, &HomeError{dir, fmt.Sprintf("%s cannot be read (%v); leave that hub and join it again", path, err)}
		}
		hubs = append(hubs, hub)
	}
	slices.SortFunc(hubs, func(a, b Hub) int { return a.Joined.Compare(b.Joined) })
	return hubs, nil
}

func hubDir(dir string, key spare.NodeID) string { return filepath.Join(dir, "hubs", key.Short()) }

func (h *Home) resultsDir(key spare.NodeID) string {
	return filepath.Join(hubDir(h.dir, key), "results")
}

// putHub makes the node belong to a hub, or brings up to date what is known of it.
func (h *Home) putHub(hub Hub) error {
	raw, err := json.MarshalIndent(hub, "", "  ")
	if err != nil {
		return fmt.Errorf("store hub %s: %w", hub.Name, err)
	}
	dir := hubDir(h.dir, hub.Key)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("store hub %s: %w", hub.Name, err)
	}
	if err := disk.Replace(filepath.Join(dir, "hub.json"), append(raw, '\n')); err != nil {
		return fmt.Errorf("store hub %s: %w", hub.Name, err)
	}
	return nil
}

// Leave makes the node forget a hub, named by its name or by the first digits of its
// key; "" means the only one. Finished results the hub has not taken yet stand in the
// way unless force is set.
func (h *Home) Leave(which string, force bool) (Hub, error) {
	hubs, err := Hubs(h.dir)
	if err != nil {
		return Hub{}, err
	}
	var named []Hub
	for _, hub := range hubs {
		if which == "" || hub.Name == which || (len(which) >= 6 && strings.HasPrefix(string(hub.Key), which)) {
			named = append(named, hub)
		}
	}
	switch {
	case len(hubs) == 0:
		return Hub{}, &HomeError{h.dir, "this node has joined no hub"}
	case len(named) == 0:
		return Hub{}, &HomeError{h.dir, fmt.Sprintf("this node has not joined a hub %q; \"spare-node status\" lists those it has", which)}
	case len(named) > 1:
		return Hub{}, &HomeError{h.dir, "this node has joined several hubs; name the one to leave by the first digits of its key, as \"spare-node status\" lists them"}
	}
	hub := named[0]
	if n := work.Pending(h.resultsDir(hub.Key)); n > 0 && !force {
		return hub, &HomeError{h.dir, fmt.Sprintf("%d finished results are not handed over to %s yet; run the node until they are, or give them up with --force", n, hub.Name)}
	}
	// The file that makes it a hub goes first, so that a crash leaves no half of one.
	if err := os.Remove(filepath.Join(hubDir(h.dir, hub.Key), "hub.json")); err != nil {
		return hub, fmt.Errorf("leave %s: %w", hub.Name, err)
	}
	if err := cache.RemoveAll(hubDir(h.dir, hub.Key)); err != nil {
		return hub, fmt.Errorf("leave %s: %w", hub.Name, err)
	}
	return hub, nil
}
