package image

import (
	"crypto/sha256"
	"errors"
	"iter"
	"maps"
	"slices"
	"strings"
	"time"
)

type kind byte

const (
	folder kind = 1 + iota
	file
	symlink
	lower    // a hard link to a file of a layer below; becomes that file when layers are joined
	whiteout // the name is gone from the layers below
	opaque   // all that the layers below have in this folder is gone
)

// An entry is one thing in a layer or in an image.
type entry struct {
	name  string // slash-separated, clean, relative
	kind  kind
	exec  bool              // somebody may execute it
	size  int64             // bytes
	mtime int64             // seconds since 1970
	sum   [sha256.Size]byte // of a file's content
	to    string            // of a link
}

// A node is an entry in its place in a tree.
type node struct {
	entry
	children map[string]*node // of a folder
	layer    int              // which layer holds its bytes
	path     string           // and under which name
}

func newTree() *node { return &node{entry: entry{kind: folder}, children: map[string]*node{}} }

// find is the node with a name. It follows no symbolic links.
func (n *node) find(name string) *node {
	if name == "" {
		return n
	}
	for part := range strings.SplitSeq(name, "/") {
		if n = n.children[part]; n == nil {
			return nil
		}
	}
	return n
}

// split cuts a name into its folder and its last part.
func split(name string) (dir, base string) {
	if i := strings.LastIndexByte(name, '/'); i >= 0 {
		return name[:i], name[i+1:]
	}
	return "", name
}

// put places a node in a folder that is there.
func (n *node) put(child *node) {
	dir, base := split(child.name)
	if child.kind == folder && child.children == nil {
		child.children = map[string]*node{}
	}
	n.find(dir).children[base] = child
}

// drop removes the node with a name and all below it.
func (n *node) drop(name string) {
	dir, base := split(name)
	if parent := n.find(dir); parent != nil {
		delete(parent.children, base)
	}
}

// all walks what is below n, folders before what they hold, sorted.
func (n *node) all() iter.Seq[*node] {
	return func(yield func(*node) bool) { n.walk(yield) }
}

func (n *node) walk(yield func(*node) bool) bool {
	for _, base := range slices.Sorted(maps.Keys(n.children)) {
		child := n.children[base]
		if !yield(child) || !child.walk(yield) {
			return false
		}
	}
	return true
}

const (
	maxName  = 2048 // bytes; what Linux takes in one call is 4096, and the store's folder comes before it
	maxPart  = 255  // bytes, what common file systems allow
	maxDepth = 128  // folders above a file
)

var errRoot = errors.New("it is the root")

// clean checks the name of an entry in a layer's archive. Names that are merely odd are
// an image's own business; those that lead elsewhere are not.
func clean(name string) (string, error) {
	bad := func(why string) (string, error) { return "", &Refused{Name: name, Reason: why} }
	if name == "/" || name == "." || name == "./" || name == "" {
		return "", errRoot
	}
	if strings.HasPrefix(name, "/") {
		return bad("has an absolute name")
	}
	for strings.HasPrefix(name, "./") {
		name = name[2:]
	}
	name = strings.TrimSuffix(name, "/")
	switch {
	case name == "" || name == ".":
		return "", errRoot
	case len(name) > maxName:
		return bad("has too long a name")
	case strings.Count(name, "/") > maxDepth:
		return bad("lies too deep in folders")
	case strings.ContainsRune(name, 0):
		return bad("has a zero byte in its name")
	}
	for part := range strings.SplitSeq(name, "/") {
		switch {
		case part == "..":
			return bad("climbs out of the image")
		case part == "" || part == ".":
			return bad("has an empty part in its name")
		case len(part) > maxPart:
			return bad("has too long a name")
		}
	}
	return name, nil
}

const (
	whiteoutPrefix = ".wh."
	whiteoutMeta   = ".wh..wh."
	whiteoutOpaque = ".wh..wh..opq"
)

// mark tells whether a name, which is clean, says that something below is gone, and
// what. skip is what an old storage driver kept for itself, which means nothing.
func mark(name string) (e entry, is, skip bool, err error) {
	if !strings.Contains(name, whiteoutPrefix) {
		return e, false, false, nil
	}
	dir, base := split(name)
	for part := range strings.SplitSeq(dir, "/") {
		if strings.HasPrefix(part, whiteoutMeta) {
			return e, true, true, nil
		}
		if strings.HasPrefix(part, whiteoutPrefix) {
			return e, true, false, &Refused{Name: name, Reason: "lies in a folder that is a mark of removal"}
		}
	}
	switch {
	case base == whiteoutOpaque:
		return entry{name: dir, kind: opaque}, true, false, nil
	case strings.HasPrefix(base, whiteoutMeta):
		return e, true, true, nil
	case !strings.HasPrefix(base, whiteoutPrefix):
		return e, false, false, nil
	}
	gone := strings.TrimPrefix(base, whiteoutPrefix)
	if gone == "" || gone == "." || gone == ".." {
		return e, true, false, &Refused{Name: name, Reason: "removes what is not below it"}
	}
	if dir != "" {
		gone = dir + "/" + gone
	}
	return entry{name: gone, kind: whiteout}, true, false, nil
}

// moment keeps a time of modification to what every file system takes. Python, for one,
// compares it with what its compiled files say.
func moment(t time.Time) int64 {
	const year2200 = 7258118400
	s := t.Unix()
	if s < 0 || s > year2200 {
		return 0
	}
	return s
}
