package bundle

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
)

// An Entry is one file of a folder.
type Entry struct {
	Name string // slash-separated, relative
	Size int64  // bytes
	Exec bool   // somebody may execute it
}

// CollectResults lists the files that a run left in its results folder, sorted by name,
// and refuses all but plain files under the rules for names: no links of either kind,
// no devices, pipes or sockets. It follows nothing. Empty folders are left out.
func CollectResults(dir string, lim Limits) ([]Entry, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer func() { _ = root.Close() }()
	return list(root, lim, true)
}

// list walks a folder. Results may hold no hard links; an author's folder may, since
// tools that install packages make them.
func list(root *os.Root, lim Limits, results bool) ([]Entry, error) {
	lim = lim.withDefaults()
	n := newNames(lim)
	var all []Entry
	var total int64
	err := fs.WalkDir(root.FS(), ".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrPermission):
			return &Refused{Name: name, Reason: "cannot be read: its permissions forbid it"}
		case err != nil:
			return err
		case name == ".":
			return nil
		case d.IsDir():
			_, err := n.add(name, true)
			return err
		case !d.Type().IsRegular():
			return &Refused{Name: name, Reason: "is " + kind(d.Type())}
		}
		if _, err := n.add(name, false); err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if !info.Mode().IsRegular() {
			return &Refused{Name: name, Reason: "is " + kind(info.Mode().Type())}
		}
		if results && links(info) > 1 {
			return &Refused{Name: name, Reason: "is a hard link: one file under two names"}
		}
		if total += info.Size(); total > lim.Bytes {
			return tooBig(lim)
		}
		all = append(all, Entry{Name: name, Size: info.Size(), Exec: info.Mode()&0o111 != 0})
		return nil
	})
	slices.SortFunc(all, func(a, b Entry) int { return cmp.Compare(a.Name, b.Name) })
	return all, err
}

func tooBig(lim Limits) error {
	return &Refused{Reason: fmt.Sprintf("it unpacks to more than %d bytes", lim.Bytes)}
}

// kind names what is not a plain file.
func kind(m fs.FileMode) string {
	switch {
	case m&fs.ModeSymlink != 0:
		return "a symbolic link; only plain files and folders are allowed"
	case m&fs.ModeNamedPipe != 0:
		return "a named pipe; only plain files and folders are allowed"
	case m&fs.ModeSocket != 0:
		return "a socket; only plain files and folders are allowed"
	case m&fs.ModeDevice != 0:
		return "a device; only plain files and folders are allowed"
	}
	return "neither a plain file nor a folder"
}
