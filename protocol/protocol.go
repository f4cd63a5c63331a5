// Package protocol is what hub and node agree on, and nothing else: identities,
// tickets, sessions, framed messages and blob transfer.
//
// It owns how the two find, recognise and understand each other. It never decides
// who may do what, keeps no state between sessions and knows neither scheduler nor
// sandbox: the hub's gateway and the node's session loop call it and decide.
//
// A node dials; the hub listens. A Session is mutually authenticated by pinned keys.
// The first stream of a session is the control stream, a Conn: Hello, Welcome, then
// messages in both directions. Each blob takes a stream of its own, opened by the
// node. Every stream begins with one frame that says what it is for.
//
// QUIC carries sessions between machines; Pipe carries them inside one process. Both
// pass the conformance suite in sessiontest.
package protocol

import "fmt"

// MinVersion and Version are the range of protocol versions this release speaks.
const (
	MinVersion uint32 = 1
	Version    uint32 = 1
)

// InlineLimit is the size in bytes up to which a blob travels inside the message
// that names it; a larger one takes a stream.
const InlineLimit = 64 << 10

// Negotiate picks the newest version that both ends speak, or returns a *VersionError.
func Negotiate(minVersion, maxVersion uint32) (uint32, error) {
	chosen := min(maxVersion, Version)
	if minVersion > maxVersion || chosen < max(minVersion, MinVersion) {
		return 0, &VersionError{Min: minVersion, Max: maxVersion}
	}
	return chosen, nil
}

// A VersionError says that two releases are too far apart to work together.
type VersionError struct {
	Min, Max uint32 // what the other end speaks
}

func (e *VersionError) Error() string {
	switch {
	case e.Min > e.Max:
		return fmt.Sprintf("the other end offers no protocol version (%d to %d): its program is broken or is not Spare", e.Min, e.Max)
	case e.Max < MinVersion:
		return fmt.Sprintf("the other end speaks protocol versions %d to %d, this one %d to %d: update the other end", e.Min, e.Max, MinVersion, Version)
	default:
		return fmt.Sprintf("the other end speaks protocol versions %d to %d, this one %d to %d: update this one", e.Min, e.Max, MinVersion, Version)
	}
}
