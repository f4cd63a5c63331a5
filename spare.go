// Package spare is the vocabulary of Spare: the nouns that hub, node and
// commands share. It imports only the standard library, decides nothing and does
// no input or output. Whoever reads it knows the system.
//
// A Job's input is cut into chunks; each chunk is the work of one Task; a Task is
// tried by nodes in Attempts, each under a lease, until one result is accepted;
// the accepted results are put together into the Job's output.
package spare

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
)

// Version is the release of this tree, set at link time.
var Version = "0.1.0-dev"

// Digest names content: the SHA-256 of its bytes as 64 lower-case hex digits.
type Digest string

// Sum returns the digest of b.
func Sum(b []byte) Digest {
	s := sha256.Sum256(b)
	return Digest(hex.EncodeToString(s[:]))
}

// ParseDigest checks that s is a digest. Nothing else may become part of a path.
func ParseDigest(s string) (Digest, error) {
	if !isHex64(s) {
		return "", fmt.Errorf("digest %.80q: want 64 lower-case hex digits", s)
	}
	return Digest(s), nil
}

// Valid reports whether d is well formed.
func (d Digest) Valid() bool { return isHex64(string(d)) }

// Short is the first 12 digits, for people.
func (d Digest) Short() string { return short(string(d)) }

// NodeID names a node: the SHA-256 of its Ed25519 public key, as 64 hex digits.
type NodeID string

// ParseNodeID checks that s is a node's name.
func ParseNodeID(s string) (NodeID, error) {
	if !isHex64(s) {
		return "", fmt.Errorf("node id %.80q: want 64 lower-case hex digits", s)
	}
	return NodeID(s), nil
}

// Short is the first 12 digits, for people.
func (n NodeID) Short() string { return short(string(n)) }

func short(s string) string { return s[:min(12, len(s))] }

func isHex64(s string) bool {
	if len(s) != 64 {
		return false
	}
	for _, c := range []byte(s) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}
