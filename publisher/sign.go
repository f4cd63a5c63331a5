package publisher

import (
	"bytes"
	"crypto/ed25519"
	"fmt"
	"time"

	"github.com/spare-compute/spare"
)

// Sign makes the signed manifest of an App. The key's rotations come along, so that a
// node that pinned an earlier key can follow.
func Sign(key *Key, m Manifest) ([]byte, error) {
	m.Issued, m.Expires = m.Issued.UTC().Truncate(time.Second), m.Expires.UTC().Truncate(time.Second)
	if err := m.check(); err != nil {
		return nil, fmt.Errorf("sign %s: %w", m.Tag(), err)
	}
	payload, err := encode(m)
	if err != nil {
		return nil, fmt.Errorf("sign %s: %w", m.Tag(), err)
	}
	e := seal(typeManifest, payload, key.private)
	e.Rotations = key.rotations
	raw, err := e.bytes()
	if err != nil {
		return nil, fmt.Errorf("sign %s: %w", m.Tag(), err)
	}
	return raw, nil
}

// A Statement is a signed manifest and who signed it.
type Statement struct {
	Manifest
	Signer  ID           // the key
	Pin     int          // the position of its publisher among those that were given
	Digest  spare.Digest // of the signed bytes
	Retired bool         // signed by a key that its publisher has replaced
}

// Verify finds out which of the trusted publishers signed a manifest, and reads it. It
// returns the pins as they are after the rotations that came along, whatever else is
// wrong: a key that is replaced stays replaced. A statement by a replaced key is
// returned with ErrRetiredKey, one whose time is not now with ErrExpired or
// ErrNotYetValid; no other error comes with a statement.
func Verify(signed []byte, pins []Pin, now time.Time) (*Statement, []Pin, error) {
	e, err := open(signed, typeManifest)
	if err != nil {
		return nil, pins, err
	}
	followed := make([]Pin, len(pins))
	for i, p := range pins {
		next, err := p.follow(e.Rotations)
		if err != nil {
			return nil, pins, err
		}
		followed[i] = next
	}
	st, err := e.signer(followed)
	if err != nil {
		return nil, followed, err
	}
	if err := decode(e.Payload, &st.Manifest); err != nil {
		return nil, followed, malformed("%v", err)
	}
	if err := st.check(); err != nil {
		return nil, followed, malformed("%v", err)
	}
	st.Digest = spare.Sum(e.Payload)
	if err := st.current(now); err != nil {
		return st, followed, err
	}
	if st.Retired {
		p := followed[st.Pin]
		return st, followed, fmt.Errorf("%w: key %s was replaced by %s; have it signed anew", ErrRetiredKey, st.Signer.Short(), p.ID().Short())
	}
	return st, followed, nil
}

// signer finds the publisher whose signature is good. A signature that names a trusted
// key and is not by it is a forgery or damage, not a stranger's.
func (e envelope) signer(pins []Pin) (*Statement, error) {
	var forged ID
	try := func(pin int, key ed25519.PublicKey, retired bool) *Statement {
		named, good := e.by(key)
		if good {
			return &Statement{Signer: IDOf(key), Pin: pin, Retired: retired}
		}
		if named {
			forged = IDOf(key)
		}
		return nil
	}
	for i, p := range pins {
		if st := try(i, p.Key, false); st != nil {
			return st, nil
		}
	}
	for i, p := range pins {
		for _, k := range p.Retired {
			if st := try(i, k, true); st != nil {
				return st, nil
			}
		}
	}
	if forged != "" {
		return nil, fmt.Errorf("%w: it names key %s, which did not sign it", ErrBadSignature, forged.Short())
	}
	return nil, fmt.Errorf("%w: it is signed by key %.12s", ErrUnknownKey, bytes.ToValidUTF8([]byte(e.Signatures[0].KeyID), []byte("?")))
}

// Peek reads a manifest without believing it: no signature is checked. It is for showing
// what is there.
func Peek(signed []byte) (Manifest, ID, error) {
	e, err := open(signed, typeManifest)
	if err != nil {
		return Manifest{}, "", err
	}
	var m Manifest
	if err := decode(e.Payload, &m); err != nil {
		return Manifest{}, "", malformed("%v", err)
	}
	return m, e.Signatures[0].KeyID, nil
}
