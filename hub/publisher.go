package hub

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spare-compute/spare/disk"
	"github.com/spare-compute/spare/publisher"
)

// The operator's publisher key, and the publishers that this hub's tickets name. The
// first is to be taken away; the second holds nothing secret.
const (
	publisherKeyFile = "publisher.key"
	publishersFile   = "publishers.json"
)

// A Publisher is one whose Apps this hub takes signed, and whom nodes that join are told
// to trust.
type Publisher struct {
	Name   string           `json:"name"`
	Own    bool             `json:"own,omitempty"` // made at this hub's first start
	Added  time.Time        `json:"added"`
	Public publisher.Public `json:"public"`
}

// Publishers are a hub's.
type Publishers struct {
	Known   []Publisher `json:"publishers"`
	KeyHere bool        `json:"-"` // whether the own one's private key lies in the data folder
}

// pins are the publishers as they are trusted.
func (p Publishers) pins() []publisher.Pin {
	var pins []publisher.Pin
	for _, k := range p.Known {
		pins = append(pins, k.Public.Pin())
	}
	return pins
}

// keys are the publishers' public keys, for a ticket.
func (p Publishers) keys() [][]byte {
	var keys [][]byte
	for _, k := range p.Known {
		keys = append(keys, k.Public.Key)
	}
	return keys
}

// maxPublishers is how many a ticket can name.
const maxPublishers = 32

// ReadPublishers lists the publishers of the hub whose data folder this is.
func ReadPublishers(data string) (Publishers, error) {
	var p Publishers
	path := filepath.Join(data, publishersFile)
	raw, err := os.ReadFile(path)
	if err != nil {
		return p, fmt.Errorf("read the hub's publishers: %w", err)
	}
	if err := json.Unmarshal(raw, &p); err != nil {
		return p, fmt.Errorf("read %s: %w", path, err)
	}
	_, err = os.Lstat(filepath.Join(data, publisherKeyFile))
	p.KeyHere = err == nil
	return p, nil
}

func (p Publishers) write(data string) error {
	raw, err := json.MarshalIndent(p, "", "  ")
	if err != nil {
		return err
	}
	return disk.Replace(filepath.Join(data, publishersFile), append(raw, '\n'))
}

// own is the position of the operator's publisher, or -1.
func (p Publishers) own() int {
	return slices.IndexFunc(p.Known, func(k Publisher) bool { return k.Own })
}

// openPublishers makes the operator's publisher key at the first start. It returns the
// private key as long as that lies in the data folder, and nil once it was taken away.
func openPublishers(data, name string) (Publishers, *publisher.Key, error) {
	path := filepath.Join(data, publisherKeyFile)
	known, err := ReadPublishers(data)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return known, nil, err
	}
	if err := finishRotation(data, known); err != nil {
		return known, nil, err
	}
	key, keyErr := publisher.ReadKey(path)
	if keyErr != nil && !errors.Is(keyErr, fs.ErrNotExist) {
		return known, nil, keyErr
	}
	if err == nil {
		return known, key, nil
	}
	if key == nil { // else a start that was interrupted between the two files
		if key, err = publisher.NewKey(); err != nil {
			return known, nil, err
		}
		if err := key.Save(path); err != nil {
			return known, nil, err
		}
	}
	known = Publishers{
		Known:   []Publisher{{Name: name, Own: true, Added: time.Now().UTC().Truncate(time.Second), Public: key.Public()}},
		KeyHere: true,
	}
	if err := known.write(data); err != nil {
		return known, nil, fmt.Errorf("note the hub's publisher: %w", err)
	}
	return known, key, nil
}

// publisherKey is the operator's publisher key, if it is still here.
func (h *Hub) publisherKey() (*publisher.Key, error) {
	_, key, err := openPublishers(h.opt.Data, h.opt.Name)
	if key != nil {
		h.keyHere = true
		h.opt.Log.Info("the publisher key, with which anything can be made to run on volunteers' nodes, lies on this hub; take it off with \"spare-hub publisher export\"",
			"publisher", key.ID().Short(), "file", h.folder(publisherKeyFile))
		if key.Exposed() {
			h.opt.Log.Warn("everybody on this machine may read the publisher key: the data folder's file system keeps no modes", "file", h.folder(publisherKeyFile))
		}
	}
	return key, err
}

// PublisherKeyHere reports whether the private half of the operator's publisher key lay
// in the data folder when the hub was opened.
func (h *Hub) PublisherKeyHere() bool { return h.keyHere }

// publishers are those that the hub knows at this moment: commands change them while it
// runs.
func (h *Hub) publishers() []publisher.Pin {
	known, err := ReadPublishers(h.opt.Data)
	if err != nil {
		h.opt.Log.Error("no signature can be checked", "error", err)
		return nil
	}
	return known.pins()
}

// ExportPublisher writes the operator's private publisher key to a new file, reads it
// back, and with remove takes it off the hub. After that the hub signs nothing.
func ExportPublisher(data, file string, remove bool) (publisher.ID, error) {
	path := filepath.Join(data, publisherKeyFile)
	key, err := publisher.ReadKey(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("there is no private publisher key in %s: it was taken off this hub before", data)
	}
	if err != nil {
		return "", err
	}
	if inside(data, file) {
		return "", fmt.Errorf("%s lies in the hub's own data folder: name a file outside, best on a medium that can be taken away", file)
	}
	err = key.Save(file)
	if errors.Is(err, fs.ErrExist) {
		if same, readErr := key.SavedAs(file); readErr != nil || !same {
			return "", fmt.Errorf("%s exists and is not this key; name a new file", file)
		}
		err = nil // exported before
	}
	if err != nil {
		return "", err
	}
	// What it holds is looked at, and not its mode: on a stick there is none to set.
	if same, err := key.SavedAs(file); err != nil || !same {
		return "", errors.Join(fmt.Errorf("the key in %s is not the one that was written; the hub keeps its own", file), err)
	}
	if !remove {
		return key.ID(), nil
	}
	return key.ID(), wipe(path)
}

// inside reports whether a file would lie in a folder.
func inside(folder, file string) bool {
	a, errA := filepath.Abs(folder)
	b, errB := filepath.Abs(filepath.Dir(file))
	if real, err := filepath.EvalSymlinks(a); err == nil {
		a = real
	}
	if real, err := filepath.EvalSymlinks(b); err == nil {
		b = real
	}
	rel, err := filepath.Rel(a, b)
	return errors.Join(errA, errB, err) == nil && filepath.IsLocal(rel)
}

// wipe writes over a key before it removes it. Copies that a file system, a disk or a
// backup keeps are beyond it.
func wipe(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("take the publisher key off the hub: %w", err)
	}
	info, err := f.Stat()
	if err == nil {
		_, err = f.Write(make([]byte, info.Size()))
	}
	if err := errors.Join(err, f.Sync(), f.Close(), os.Remove(path)); err != nil {
		return fmt.Errorf("take the publisher key off the hub: %w", err)
	}
	return nil
}

// RotatePublisher replaces the operator's key by a new one, which the old one signs for.
// The key lies in the data folder, or in a file outside where the new one is then
// written to newFile.
func RotatePublisher(data, file, newFile string) (old, next publisher.ID, err error) {
	known, err := ReadPublishers(data)
	if err != nil {
		return "", "", err
	}
	if err := finishRotation(data, known); err != nil {
		return "", "", err
	}
	own := known.own()
	here := file == ""
	if here {
		file = filepath.Join(data, publisherKeyFile)
	}
	key, err := publisher.ReadKey(file)
	switch {
	case errors.Is(err, fs.ErrNotExist) && here:
		return "", "", errors.New("the private publisher key is not on this hub; name the file it was exported to with --key, and one for the new key with --new-key")
	case err != nil:
		return "", "", err
	case own < 0 || known.Known[own].Public.ID() != key.ID():
		return "", "", fmt.Errorf("%s is not the key of this hub's own publisher", file)
	case !here && newFile == "":
		return "", "", errors.New("name a file for the new key with --new-key")
	}
	fresh, err := key.Rotate(time.Now())
	if err != nil {
		return "", "", err
	}
	// The new key is safe on disk before anything speaks of it.
	if here {
		newFile = file + newSuffix
		if err := os.Remove(newFile); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", "", err
		}
	}
	if err := fresh.Save(newFile); err != nil {
		return "", "", err
	}
	known.Known[own].Public = fresh.Public()
	if err := known.write(data); err != nil {
		return "", "", fmt.Errorf("note the new key: %w", err)
	}
	if here {
		if err := disk.Move(newFile, file); err != nil {
			return "", "", fmt.Errorf("put the new key %s in place of %s: %w", newFile, file, err)
		}
	}
	return key.ID(), fresh.ID(), nil
}

// newSuffix marks a key that is about to take its place.
const newSuffix = ".new"

// finishRotation puts a new key in place where a rotation was interrupted right before
// that: the hub speaks of it already.
func finishRotation(data string, known Publishers) error {
	path := filepath.Join(data, publisherKeyFile)
	key, err := publisher.ReadKey(path + newSuffix)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if own := known.own(); own < 0 || known.Known[own].Public.ID() != key.ID() {
		return nil // interrupted before anybody knew of it
	}
	if err := disk.Move(path+newSuffix, path); err != nil {
		return fmt.Errorf("put the new publisher key in place: %w", err)
	}
	return nil
}

// AddPublisher makes this hub take a publisher's signed Apps, and tickets name it. A key
// that a known publisher was rotated to takes that one's place.
func AddPublisher(data, name string, public publisher.Public) (replaced publisher.ID, err error) {
	known, err := ReadPublishers(data)
	if err != nil {
		return "", err
	}
	if name = strings.TrimSpace(name); name == "" || len(name) > 64 || strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return "", fmt.Errorf("%.80q is no name for a publisher; use 1 to 64 printable characters", name)
	}
	entry := Publisher{Name: name, Added: time.Now().UTC().Truncate(time.Second), Public: public}
	for i, k := range known.Known {
		switch {
		case k.Public.ID() == public.ID():
			return "", fmt.Errorf("publisher %q with key %s is known already", k.Name, public.ID().Short())
		case public.Replaces(k.Public.Pin()):
			replaced = k.Public.ID()
			entry.Own, entry.Name = k.Own, k.Name
			known.Known[i] = entry
		}
	}
	if replaced == "" {
		if len(known.Known) >= maxPublishers {
			return "", fmt.Errorf("this hub has %d publishers, and tickets name no more; remove one first", maxPublishers)
		}
		known.Known = append(known.Known, entry)
	}
	return replaced, known.write(data)
}

// RemovePublisher makes this hub take no more signed Apps of a publisher, named by its
// name or the first digits of its key. Nodes that joined keep to their tickets.
func RemovePublisher(data, which string) (Publisher, error) {
	known, err := ReadPublishers(data)
	if err != nil {
		return Publisher{}, err
	}
	var found []int
	for i, k := range known.Known {
		if k.Name == which || (len(which) >= 6 && strings.HasPrefix(string(k.Public.ID()), which)) {
			found = append(found, i)
		}
	}
	switch {
	case len(found) != 1:
		return Publisher{}, fmt.Errorf("%d publishers go by %.80q; \"spare-hub publisher show\" lists them", len(found), which)
	case known.Known[found[0]].Own:
		return Publisher{}, errors.New("this is the hub's own publisher, whose key nodes have pinned; rotate it if its key is lost or stolen")
	}
	gone := known.Known[found[0]]
	known.Known = slices.Delete(known.Known, found[0], found[0]+1)
	return gone, known.write(data)
}
