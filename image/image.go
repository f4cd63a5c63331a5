// Package image keeps OCI images without a container engine: it fetches them by digest
// from a registry, a hub or an archive, believes nothing that does not hash to its
// digest, unpacks each layer once as an ordinary user, and joins layers to the folder
// that a program gets as its root. It owns one folder with a quota, which several
// processes may share. It never runs anything, never follows a link that an image
// brought, and chooses no address by itself. The node and `spare app test` call it for
// what they run; the hub calls it to learn what a name means; the program spare calls it
// to take an image apart for a push.
//
// On disk, below the store's folder:
//
//	lock              held by the process that changes anything
//	blobs/D           a compressed layer, a manifest or a configuration, whole
//	partial/D         the beginning of one
//	layers/D/         a layer's files; D is the digest of its uncompressed tar
//	layers/D.rec      what that folder must hold; written last
//	trees/ID/         an image's files: hard links to its layers' files
//	trees/ID.rec      what that folder must hold; written last
//	packed/ID.rec     an image that is kept as blobs, for engines
//	pins/             locked while an image is in use
//	tmp/              half-made things
//
// Times of modification of the records are the times of last use.
package image

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spare-compute/spare"
)

// An Image is an image on this machine. It has the fields of sandbox.Image and converts
// to it.
type Image struct {
	ID      string   // digest of its configuration, "sha256:…"
	Folder  string   // its files, not to be written to; "" for the form Packed
	Env     []string // the variables it sets
	Archive func() (io.ReadCloser, error)
}

// Form is what a caller needs of an image.
type Form string

// The forms. Unpacked is a folder; its layers are dropped in their compressed form once
// they are unpacked, so that the disk holds an image once. Packed is the layers as they
// came, for engines, which unpack for themselves.
const (
	Unpacked Form = "unpacked"
	Packed   Form = "packed"
)

// A Source is where the parts of an image come from. What it gives is checked against
// its digest by whoever asked.
type Source interface {
	// Manifest returns a manifest or an index.
	Manifest(ctx context.Context, d spare.Digest) ([]byte, error)
	// Blob writes a configuration or a layer from offset on; a size below 0 is not known.
	// An error after some bytes is no harm: the rest is asked for again.
	Blob(ctx context.Context, b Blob, offset int64, w io.Writer) error
}

// Fetch is a Source that keeps manifests and layers alike as blobs, as a hub does.
type Fetch func(ctx context.Context, d spare.Digest, offset int64, w io.Writer) error

// Manifest implements Source.
func (f Fetch) Manifest(ctx context.Context, d spare.Digest) ([]byte, error) {
	var b bounded
	if err := f(ctx, d, 0, &b); err != nil {
		return nil, err
	}
	return b.bytes, nil
}

// Blob implements Source.
func (f Fetch) Blob(ctx context.Context, b Blob, offset int64, w io.Writer) error {
	return f(ctx, b.Digest, offset, w)
}

// maxDocument is the most bytes of a manifest, index or configuration: what the
// distribution specification asks registries to take.
const maxDocument = 4 << 20

// bounded collects a document.
type bounded struct{ bytes []byte }

func (b *bounded) Write(p []byte) (int, error) {
	if len(b.bytes)+len(p) > maxDocument {
		return 0, &Refused{Reason: fmt.Sprintf("its manifest or configuration has more than %d MiB", maxDocument>>20)}
	}
	b.bytes = append(b.bytes, p...)
	return len(p), nil
}

// Errors a caller tells apart.
var (
	// ErrFull means that the quota or the disk has no room left.
	ErrFull = errors.New("no room for images")
	// ErrCorrupt means that what was fetched is not what was asked for.
	ErrCorrupt = errors.New("content does not match its digest")
	// ErrNotFound means that a source does not have what was asked for.
	ErrNotFound = errors.New("no such image")
)

// Refused says that an image breaks the rules: it is its maker's fault, not the
// machine's, and trying again is no use.
type Refused struct {
	Name   string // the file in it, if it is one file's fault
	Reason string
}

func (e *Refused) Error() string {
	if e.Name == "" {
		return "refused: " + e.Reason
	}
	return fmt.Sprintf("refused: %.200q %s", e.Name, e.Reason)
}

func refuse(format string, args ...any) *Refused {
	return &Refused{Reason: fmt.Sprintf(format, args...)}
}

// Limits bound what an image may hold. Zero means the default.
type Limits struct {
	Bytes   int64 // of all its files, layers counted each; default 64 GiB
	Entries int   // files, folders and links, layers counted each; default 300 000
	Names   int   // bytes of all names and links' targets, layers counted each; default 64 MiB
	Ratio   int64 // unpacked bytes for each packed one, past the first 64 MiB; default 2000
}

const (
	defaultBytes   = 64 << 30
	defaultEntries = 300_000
	defaultNames   = 64 << 20 // records are in memory; real images stay below a third of it
	defaultRatio   = 2000     // gzip reaches 1030
	ratioFree      = 64 << 20 // bytes before the ratio is looked at
	maxLayers      = 127      // as many as engines take
	maxVariables   = 256      // in an image's environment
	maxEnvironment = 128 << 10
)

func (l Limits) withDefaults() Limits {
	if l.Bytes == 0 {
		l.Bytes = defaultBytes
	}
	if l.Entries == 0 {
		l.Entries = defaultEntries
	}
	if l.Names == 0 {
		l.Names = defaultNames
	}
	if l.Ratio == 0 {
		l.Ratio = defaultRatio
	}
	return l
}
