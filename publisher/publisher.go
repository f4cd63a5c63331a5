// Package publisher says whose code an App is. It owns publishers' keys (Ed25519), the
// manifest that a publisher signs for each revision of an App, the statement by which an
// old key hands over to a new one, and the record of what a node trusts and has seen. It
// touches no network, knows no job, and keeps no file but a key's own.
//
// The command line and the hub sign with it. The node holds every lease against it
// before anything of the App is fetched: a hub can hand out work, but only a publisher
// can say what runs.
package publisher

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"time"
)

// ID names a key: the SHA-256 of its public half, in lower-case hex.
type ID string

// IDOf is the name of a public key.
func IDOf(public ed25519.PublicKey) ID {
	sum := sha256.Sum256(public)
	return ID(hex.EncodeToString(sum[:]))
}

// Short is the beginning of the id, for people.
func (id ID) Short() string { return string(id[:min(len(id), 12)]) }

// Skew is how wrong a machine's clock may be before a statement's times count: a laptop
// whose clock is a few hours off must not refuse everything.
const Skew = 24 * time.Hour

// Why an App is refused. Every refusal matches exactly one of these.
var (
	ErrUnsigned     = errors.New("it carries no publisher's signature")
	ErrMalformed    = errors.New("its signed manifest cannot be read")
	ErrUnknownKey   = errors.New("its publisher is not one that is trusted here")
	ErrBadSignature = errors.New("its signature does not belong to its content")
	ErrRetiredKey   = errors.New("its publisher has replaced the key that signed it")
	ErrForked       = errors.New("its publisher's key was handed over to two different keys")
	ErrExpired      = errors.New("its signature has expired")
	ErrNotYetValid  = errors.New("its signature lies in the future")
	ErrRolledBack   = errors.New("a newer revision of it is known here")
	ErrMixed        = errors.New("it is not what its publisher signed")
	ErrTaken        = errors.New("its name belongs to another publisher here")
)
