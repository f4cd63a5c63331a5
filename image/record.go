package image

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spare-compute/spare"
)

// A head is the first line of a record: what must be known of a layer or an image
// without reading what it holds.
type head struct {
	ID      spare.Digest   `json:"id"`
	Refs    []string       `json:"refs,omitempty"`   // of an image: "linux/amd64 DIGEST" of each manifest that led here
	Env     []string       `json:"env,omitempty"`    // of an image
	Layers  []spare.Digest `json:"layers,omitempty"` // of an image: their diff ids, lowest first
	Packed  []packedLayer  `json:"packed,omitempty"` // of a packed image
	Config  spare.Digest   `json:"config,omitempty"` // of a packed image
	Bytes   int64          `json:"bytes"`            // it takes on the disk
	Skipped int            `json:"skipped,omitempty"`
	Sum     spare.Digest   `json:"sum"` // of what follows this line
}

type packedLayer struct {
	Blob   spare.Digest `json:"blob"`
	DiffID spare.Digest `json:"diff_id"`
	Plain  int64        `json:"plain"` // bytes of its tar, uncompressed

	bytes          int64 // that it takes unpacked
	entries, words int
}

// A record is what a layer's or an image's folder must hold.
type record struct {
	head
	entries []entry
}

var errRecord = errors.New("the record is damaged")

// encode writes a record. The form is this program's own: it holds names of any bytes
// and is quick to read.
func (r record) encode() ([]byte, error) {
	var body []byte
	text := func(s string) {
		body = binary.AppendUvarint(body, uint64(len(s)))
		body = append(body, s...)
	}
	for _, e := range r.entries {
		kind := byte(e.kind)
		if e.exec {
			kind |= 0x80
		}
		body = append(body, kind)
		text(e.name)
		switch e.kind {
		case file:
			body = binary.AppendUvarint(body, uint64(e.size))
			body = binary.AppendUvarint(body, uint64(e.mtime))
			body = append(body, e.sum[:]...)
		case symlink, lower:
			text(e.to)
		}
	}
	r.Sum = spare.Sum(body)
	line, err := json.Marshal(r.head)
	if err != nil {
		return nil, err
	}
	return append(append(line, '\n'), body...), nil
}

// decodeHead reads the first line.
func decodeHead(r io.Reader) (head, error) {
	var h head
	line, err := bufio.NewReader(r).ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &h)
	}
	if err == nil && !h.ID.Valid() {
		err = errRecord
	}
	return h, err
}

func decodeRecord(raw []byte) (record, error) {
	line, body, ok := bytes.Cut(raw, []byte("\n"))
	if !ok {
		return record{}, errRecord
	}
	h, err := decodeHead(bytes.NewReader(append(line, '\n')))
	if err != nil {
		return record{}, err
	}
	if spare.Sum(body) != h.Sum {
		return record{}, errRecord
	}
	r := record{head: h}
	d := decoder{rest: body}
	for len(d.rest) > 0 && !d.bad {
		r.entries = append(r.entries, d.entry())
	}
	if d.bad {
		return record{}, errRecord
	}
	return r, nil
}

type decoder struct {
	rest []byte
	bad  bool
}

func (d *decoder) take(n uint64) []byte {
	if d.bad || n > uint64(len(d.rest)) {
		d.bad = true
		return nil
	}
	b := d.rest[:n]
	d.rest = d.rest[n:]
	return b
}

func (d *decoder) number() uint64 {
	v, n := binary.Uvarint(d.rest)
	if n <= 0 {
		d.bad = true
		return 0
	}
	d.rest = d.rest[n:]
	return v
}

func (d *decoder) entry() entry {
	var e entry
	if b := d.take(1); b != nil {
		e.kind, e.exec = kind(b[0]&0x7f), b[0]&0x80 != 0
	}
	e.name = string(d.take(d.number()))
	switch e.kind {
	case file:
		e.size, e.mtime = int64(d.number()), int64(d.number())
		copy(e.sum[:], d.take(sha256.Size))
	case symlink, lower:
		e.to = string(d.take(d.number()))
	}
	return e
}

func readRecord(path string) (record, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return record{}, err
	}
	r, err := decodeRecord(raw)
	if err != nil {
		return r, fmt.Errorf("read %s: %w", path, err)
	}
	return r, nil
}

func readHead(path string) (head, error) {
	f, err := os.Open(path)
	if err != nil {
		return head{}, err
	}
	defer func() { _ = f.Close() }()
	return decodeHead(f)
}

// writeRecord puts a record in place at once and for good.
func writeRecord(tmp, path string, r record) error {
	raw, err := r.encode()
	if err != nil {
		return err
	}
	return writeWhole(tmp, path, raw)
}

func writeWhole(tmp, path string, raw []byte) error {
	f, err := os.CreateTemp(tmp, "whole-")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(f.Name()) }()
	_, err = f.Write(raw)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

func digestOf(sum []byte) spare.Digest { return spare.Digest(hex.EncodeToString(sum)) }
