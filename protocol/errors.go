package protocol

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/spare-compute/spare"
)

// A Code says in a number why a session or a stream ended. Numbers are never reused.
type Code uint64

// The codes.
const (
	CodeNone      Code = 0 // nothing is wrong
	CodeMalformed Code = 1 // what came cannot be understood
	CodeGoodbye   Code = 2 // a Goodbye was sent and says why
	CodeSlow      Code = 3 // too little was read or written in the time allowed
	CodeSilent    Code = 4 // nothing was heard in the time allowed
	CodeTooMany   Code = 5 // a limit on streams or messages was passed
	CodeAborted   Code = 6 // the caller gave up
	CodeStorage   Code = 7 // the bytes could not be read from or written to disk
	CodeLost      Code = 8 // the connection broke; never sent
	CodeRefused   Code = 9 // not allowed
)

var codeNames = map[Code]string{
	CodeNone: "done", CodeMalformed: "malformed", CodeGoodbye: "goodbye", CodeSlow: "too slow",
	CodeSilent: "silent", CodeTooMany: "too many", CodeAborted: "aborted", CodeStorage: "storage failed",
	CodeLost: "connection lost", CodeRefused: "refused",
}

func (c Code) String() string {
	if s, ok := codeNames[c]; ok {
		return s
	}
	return fmt.Sprintf("code %d", uint64(c))
}

// A SessionError says how a session ended. It matches net.ErrClosed.
type SessionError struct {
	Code   Code
	Reason string
	Remote bool  // the other end closed it
	Err    error // what the transport said, if the connection broke
}

func (e *SessionError) Error() string {
	what := "the session was closed here"
	switch {
	case e.Remote:
		what = "the other end closed the session"
	case e.Code == CodeLost:
		what = "the connection is lost"
	}
	switch {
	case e.Reason != "":
		return what + ": " + e.Reason
	case e.Err != nil:
		return what + ": " + e.Err.Error()
	}
	return fmt.Sprintf("%s (%v)", what, e.Code)
}

func (e *SessionError) Unwrap() []error { return []error{net.ErrClosed, e.Err} }

// A StreamError says that a stream was cancelled.
type StreamError struct {
	Code   Code
	Remote bool // by the other end
}

func (e *StreamError) Error() string {
	if e.Remote {
		return fmt.Sprintf("the other end cancelled the stream (%v)", e.Code)
	}
	return fmt.Sprintf("the stream was cancelled here (%v)", e.Code)
}

// An UnreachableError says that no hub answered.
type UnreachableError struct {
	Addr string
	Err  error
}

func (e *UnreachableError) Error() string {
	port := "the port"
	if _, p, err := net.SplitHostPort(e.Addr); err == nil {
		port = "UDP port " + p
	}
	return fmt.Sprintf("cannot reach the hub at %s: %v; check that the hub runs, that the address is right, and that no firewall stops %s",
		e.Addr, e.Err, port)
}

func (e *UnreachableError) Unwrap() error { return e.Err }

// A WrongHubError says that the hub which answered is not the one expected.
type WrongHubError struct {
	Addr string
	Want spare.NodeID
	Got  spare.NodeID // "" if it showed no usable key
}

func (e *WrongHubError) Error() string {
	got := "no usable key"
	if e.Got != "" {
		got = "key " + e.Got.Short()
	}
	return fmt.Sprintf("this ticket is for another hub: the one at %s shows %s, the ticket names key %s; ask that hub's operator for a new ticket (spare-hub ticket)",
		e.Addr, got, e.Want.Short())
}

// errNotHub stands for an answer in a protocol that is not ours.
var errNotHub = errors.New("something answers there, but it is no Spare hub of a release this one understands")

// printable makes text from a peer fit for a log line or a terminal.
func printable(s string, limit int) string {
	if len(s) > limit {
		s = s[:limit]
		for s != "" && !utf8.ValidString(s[max(0, len(s)-utf8.UTFMax):]) {
			s = s[:len(s)-1]
		}
	}
	return strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, s)
}
