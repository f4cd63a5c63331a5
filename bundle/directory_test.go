package bundle

import (
	"archive/zip"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"runtime"
	"strings"
	"testing"
)

// zipEnd is the end of a zip that says it lists so much.
func zipEnd(entries uint16, length, offset uint32, comment string) []byte {
	b := []byte(endMark + "\x00\x00\x00\x00")
	b = binary.LittleEndian.AppendUint16(b, entries)
	b = binary.LittleEndian.AppendUint16(b, entries)
	b = binary.LittleEndian.AppendUint32(b, length)
	b = binary.LittleEndian.AppendUint32(b, offset)
	b = binary.LittleEndian.AppendUint16(b, uint16(len(comment)))
	return append(b, comment...)
}

// zipEnd64 is the record for large archives, with its locator and an end that asks for it.
func zipEnd64(at, entries, length, offset uint64) []byte {
	b := append([]byte(end64Mark), make([]byte, 20)...)
	for _, v := range []uint64{entries, entries, length, offset} {
		b = binary.LittleEndian.AppendUint64(b, v)
	}
	b = append(b, locatorMark+"\x00\x00\x00\x00"...)
	b = binary.LittleEndian.AppendUint64(b, at)
	b = binary.LittleEndian.AppendUint32(b, 1)
	return append(b, zipEnd(math.MaxUint16, math.MaxUint32, math.MaxUint32, "")...)
}

// listing is n entries of a zip's list of contents that name nothing.
func listing(n int) []byte {
	entry := append([]byte("PK\x01\x02"), make([]byte, 42)...)
	return bytes.Repeat(entry, n)
}

// sparse is an archive of a size that nobody sends in a test: zeros, then a tail.
type sparse struct {
	size int64
	head string
	tail []byte
}

func (s sparse) ReadAt(p []byte, off int64) (int, error) {
	n := 0
	for ; n < len(p) && off < s.size; n, off = n+1, off+1 {
		p[n] = 0
		if off < int64(len(s.head)) {
			p[n] = s.head[off]
		} else if at := off - (s.size - int64(len(s.tail))); at >= 0 {
			p[n] = s.tail[at]
		}
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func TestUnpack_ALongListOfContentsIsRefusedBeforeItIsRead(t *testing.T) {
	const head, n = "PK\x03\x04", 400_000 // 18 MiB of them
	lim := Limits{Files: 1000}
	for name, archive := range map[string]sparse{
		"many entries":            {size: 2 << 30, head: head, tail: zipEnd(20_000, 0, 0, "")},
		"a long list":             {size: 2 << 30, head: head, tail: zipEnd(1, maxDirectory+1, 0, "")},
		"behind a comment":        {size: 2 << 30, head: head, tail: zipEnd(20_000, 0, 0, strings.Repeat(" ", 60_000))},
		"many entries, 64 bits":   {size: 2 << 30, head: head, tail: zipEnd64(2<<30-98, 60_000_000, 0, 0)},
		"a long list, 64 bits":    {size: 2 << 30, head: head, tail: zipEnd64(2<<30-98, 1, 1<<40, 0)},
		"a list that is not told": {size: int64(len(head) + 46*n + endLen), head: head, tail: append(listing(n), zipEnd(n%65_536, 0, uint32(len(head)), "")...)},
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		err := Unpack(t.Context(), io.NewSectionReader(archive, 0, archive.size), t.TempDir(), lim)
		runtime.ReadMemStats(&after)
		var refused *Refused
		if !errors.As(err, &refused) || !strings.Contains(err.Error(), "list") {
			t.Errorf("%s: %v", name, err)
		}
		if took := (after.TotalAlloc - before.TotalAlloc) >> 20; took > 200 {
			t.Errorf("%s: %d MiB were taken", name, took)
		}
	}
}

func TestUnpack_AZipWithManyFilesIsTaken(t *testing.T) {
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for i := range 70_000 { // more than the short form of the end can say
		if _, err := w.CreateHeader(&zip.FileHeader{Name: fmt.Sprintf("f%d", i)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := checkDirectory(bytes.NewReader(b.Bytes()), int64(b.Len()), Limits{}.withDefaults()); err != nil {
		t.Error(err)
	}
	wantRefused(t, "more files than may be", bytes.NewReader(b.Bytes()), Limits{Files: 30_000})
}
