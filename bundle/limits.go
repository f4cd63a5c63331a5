package bundle

import (
	"context"
	"errors"
	"fmt"
	"math"

	"github.com/spare-compute/spare"
)

// Limits bound what an archive or folder may hold. Zero means the default.
type Limits struct {
	Files int   // regular files; default 100 000
	Bytes int64 // of all files together; default 64 GiB
	Name  int   // bytes of one path; default 1024
	Depth int   // folders above a file; default 64
	Ratio int64 // unpacked bytes for each packed one, past the first 64 MiB; default 2000
}

const (
	defaultFiles = 100_000
	defaultBytes = 64 << 30
	defaultName  = 1024
	defaultDepth = 64
	defaultRatio = 2000
	ratioFree    = 64 << 20 // bytes before the ratio is looked at: small archives of zeros are no bombs
	extraFolders = 1_000    // folders beyond one for each file
)

func (l Limits) withDefaults() Limits {
	set := func(v *int, d int) {
		if *v == 0 {
			*v = d
		}
	}
	set(&l.Files, defaultFiles)
	set(&l.Name, defaultName)
	set(&l.Depth, defaultDepth)
	if l.Bytes == 0 {
		l.Bytes = defaultBytes
	}
	if l.Ratio == 0 {
		l.Ratio = defaultRatio
	}
	return l
}

// ErrNoRoom means that an archive, which may be in order, does not fit into the room that
// Within left it.
var ErrNoRoom = errors.New("it takes more of the disk than there is for it")

type roomKey struct{}

// Within returns a context in which Unpack takes at most so many bytes of the disk, as
// OnDisk counts them. It is for who knows the disk and not the archive: Limits are for
// who knows what an archive is for.
func Within(ctx context.Context, bytes int64) context.Context {
	return context.WithValue(ctx, roomKey{}, bytes)
}

func room(ctx context.Context) int64 {
	if bytes, ok := ctx.Value(roomKey{}).(int64); ok {
		return bytes
	}
	return math.MaxInt64
}

// OnDisk is how many bytes of a disk a file takes: whole blocks, and at least one, as a
// folder does too. Small file systems run out of what names files before they are full.
func OnDisk(size int64) int64 {
	const block = 4 << 10
	return max(size+block-1, block) / block * block
}

// A Refused error says that an archive or folder breaks the rules: it is its maker's
// fault, not the machine's.
type Refused struct {
	Name   string // the entry, if it is one entry's fault
	Reason string
}

func (e *Refused) Error() string {
	if e.Name == "" {
		return "refused: " + e.Reason
	}
	return fmt.Sprintf("refused: %.200q %s", e.Name, e.Reason)
}

// Manifest is what Pack put into an archive.
type Manifest struct {
	Digest spare.Digest // of the archive
	Size   int64        // of the archive, bytes
	Bytes  int64        // of the files, bytes
	Files  []spare.File // sorted by name
}

// Packed is what PackResult put into an archive.
type Packed struct {
	Content    spare.Digest // of the files, however they are packed
	Files      int
	Bytes      int64 // of the files
	Compressed bool
}
