// Package guestbook keeps the node's guest book: an append-only log of every App that
// ran here or was refused, for whom, when, and what it took. Each entry holds the hash of
// the one before it, and a head that the node's own key signs holds the last, so that an
// entry that was altered, removed or moved is found, also at the end. It decides nothing.
// Package work writes to it through package node; anyone who can read the folder can
// list and verify it, whether the node runs or not.
//
// What it cannot show: that whoever holds both the folder and the node's key wrote it
// anew, that somebody put back an older copy of both book and head, or removed the folder
// and with it all that ever was. Entries behind the last one that is sealed are nobody's
// word: a crash may leave one, and so may whoever can write here.
package guestbook

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spare-compute/spare"
)

// Event is what an entry tells of.
type Event string

// The events.
const (
	Began    Event = "began"    // an App is about to run
	Ended    Event = "ended"    // it has
	Refused  Event = "refused"  // an App may not run here
	Repaired Event = "repaired" // the book itself was found damaged, and goes on
)

// An Entry is one line of the book. Times are the node's own.
type Entry struct {
	Seq   uint64       `json:"seq"`  // from 1, without gaps
	Prev  spare.Digest `json:"prev"` // SHA-256 of the line before it
	At    time.Time    `json:"at"`
	Event Event        `json:"event"`

	Hub     string          `json:"hub,omitempty"`
	HubKey  spare.NodeID    `json:"hub_key,omitempty"`
	Owner   string          `json:"owner,omitempty"` // of the job
	Job     string          `json:"job,omitempty"`   // its name
	Attempt spare.AttemptID `json:"attempt,omitempty"`
	Chunk   int             `json:"chunk"`

	App       string       `json:"app,omitempty"`      // name@version
	Revision  int          `json:"revision,omitempty"` // the hub's
	Bundle    spare.Digest `json:"bundle,omitempty"`
	Image     string       `json:"image,omitempty"`           // with its digest
	Publisher string       `json:"publisher,omitempty"`       // id of the key that signed the App; "" = no trusted one's
	Signed    uint64       `json:"signed_revision,omitempty"` // the publisher's
	Runtime   string       `json:"runtime,omitempty"`

	Outcome  string     `json:"outcome,omitempty"`
	Message  string     `json:"message,omitempty"`
	Start    *time.Time `json:"start,omitempty"`
	CPU      float64    `json:"cpu_seconds,omitempty"`
	Wall     float64    `json:"wall_seconds,omitempty"`
	BytesIn  int64      `json:"bytes_in,omitempty"`
	BytesOut int64      `json:"bytes_out,omitempty"`
}

const (
	maxText = 300      // bytes of any text that a hub chose
	maxLine = 16 << 10 // bytes of an entry
)

// line is the entry as it is written, without the line break.
func (e Entry) line() ([]byte, error) {
	for _, s := range []*string{&e.Hub, &e.Owner, &e.Job, &e.App, &e.Image, &e.Runtime, &e.Outcome, &e.Message} {
		*s = clip(*s)
	}
	e.Attempt, e.Bundle = spare.AttemptID(clip(string(e.Attempt))), spare.Digest(clip(string(e.Bundle)))
	raw, err := json.Marshal(e)
	if err == nil && len(raw) > maxLine {
		err = fmt.Errorf("it has %d bytes, at most %d are kept", len(raw), maxLine)
	}
	return raw, err
}

// clip bounds a text and leaves out what a terminal would obey.
func clip(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || (r >= 0x80 && r < 0xa0) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
	if len(s) > maxText {
		s = strings.ToValidUTF8(s[:maxText], "") + "…"
	}
	return s
}

// link is what ties a line to its place: all that verifying needs to read of it.
type link struct {
	seq        uint64
	prev, hash [sha256.Size]byte
	ok         bool // whether it could be read
}

// digest is the hash as it is written.
func (l link) digest() spare.Digest { return spare.Digest(hex.EncodeToString(l.hash[:])) }

// bare is a digest's bytes; a malformed one is no line's.
func bare(d spare.Digest) (b [sha256.Size]byte) {
	if d.Valid() {
		_, _ = hex.Decode(b[:], []byte(d))
	}
	return b
}

const (
	beforeSeq  = `{"seq":`
	beforePrev = `,"prev":"`
	afterPrev  = `","at":"`
)

// linkOf reads the beginning of a line as Append writes it. JSON is parsed only to show
// entries: the hash covers every byte.
func linkOf(line []byte) link {
	l := link{hash: sha256.Sum256(line)}
	rest, ok := bytes.CutPrefix(line, []byte(beforeSeq))
	comma := bytes.IndexByte(rest, ',')
	if !ok || comma < 1 || comma > 20 {
		return l
	}
	seq, err := strconv.ParseUint(string(rest[:comma]), 10, 64)
	if err != nil {
		return l
	}
	rest, ok = bytes.CutPrefix(rest[comma:], []byte(beforePrev))
	if !ok || len(rest) < 64 || !bytes.HasPrefix(rest[64:], []byte(afterPrev)) {
		return l
	}
	if _, err := hex.Decode(l.prev[:], rest[:64]); err != nil {
		return l
	}
	l.seq, l.ok = seq, true
	return l
}

// parse reads an entry for showing.
func parse(line []byte) (Entry, error) {
	var e Entry
	if err := json.Unmarshal(line, &e); err != nil {
		return e, err
	}
	if e.Seq == 0 {
		return e, errors.New("it has no number")
	}
	return e, nil
}
