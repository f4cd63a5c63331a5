package publisher

import (
	"crypto/ed25519"
	"fmt"
	"slices"
	"time"
)

// A Rotation is how a publisher's old key hands over to a new one. It is signed by the
// old key, which allows it, and by the new one, which proves that somebody holds it.
type Rotation struct {
	From     ed25519.PublicKey `json:"from"`
	To       ed25519.PublicKey `json:"to"`
	Sequence uint64            `json:"sequence"` // rises with each rotation of a publisher
	Issued   time.Time         `json:"issued"`
}

// rotation reads and verifies a rotation.
func (e envelope) rotation() (Rotation, error) {
	var r Rotation
	if err := e.check(typeRotation); err != nil {
		return r, err
	}
	if err := decode(e.Payload, &r); err != nil {
		return r, malformed("a key rotation: %v", err)
	}
	if len(r.From) != ed25519.PublicKeySize || len(r.To) != ed25519.PublicKeySize || r.From.Equal(r.To) || r.Sequence == 0 {
		return r, malformed("a key rotation names no two keys or no sequence")
	}
	for _, key := range []ed25519.PublicKey{r.From, r.To} {
		if _, good := e.by(key); !good {
			return r, fmt.Errorf("%w: a key rotation lacks the signature of %s", ErrBadSignature, IDOf(key).Short())
		}
	}
	return r, nil
}

// A Pin is a publisher that is trusted: the key it signs with now and those it had.
type Pin struct {
	Key      ed25519.PublicKey   `json:"key"`
	Retired  []ed25519.PublicKey `json:"retired,omitempty"`
	Sequence uint64              `json:"sequence,omitempty"` // of the last rotation that was followed
}

// ID names the publisher's key of now.
func (p Pin) ID() ID { return IDOf(p.Key) }

func (p Pin) retired(key ed25519.PublicKey) bool {
	return slices.ContainsFunc(p.Retired, func(k ed25519.PublicKey) bool { return k.Equal(key) })
}

// has reports whether a key is the publisher's, or was.
func (p Pin) has(id ID) bool {
	return p.ID() == id || slices.ContainsFunc(p.Retired, func(k ed25519.PublicKey) bool { return IDOf(k) == id })
}

// follow takes the rotations that lead on from the pinned key. Those of other publishers
// and those that were followed before change nothing; one that would lead a retired key
// elsewhere is refused, and so is everything that comes with it.
func (p Pin) follow(rotations []envelope) (Pin, error) {
	p.Retired = slices.Clone(p.Retired)
	for _, e := range rotations {
		r, err := e.rotation()
		if err != nil {
			if p.concerns(e) {
				return p, err
			}
			continue
		}
		switch {
		case r.From.Equal(p.Key) && r.Sequence > p.Sequence && !p.retired(r.To):
			p.Retired = append(p.Retired, p.Key)
			p.Key, p.Sequence = r.To, r.Sequence
		case r.From.Equal(p.Key):
			return p, fmt.Errorf("%w: rotation %d of key %s comes after rotation %d", ErrForked, r.Sequence, p.ID().Short(), p.Sequence)
		case p.retired(r.From) && !p.retired(r.To) && !r.To.Equal(p.Key):
			return p, fmt.Errorf("%w: %s leads to %s here, and to %s in what came now", ErrForked, IDOf(r.From).Short(), p.ID().Short(), IDOf(r.To).Short())
		case r.To.Equal(p.Key):
			p.Sequence = max(p.Sequence, r.Sequence) // pinned after it
		}
	}
	return p, nil
}

// concerns reports whether a statement names one of the publisher's keys as its signer.
func (p Pin) concerns(e envelope) bool {
	named, _ := e.by(p.Key)
	for _, k := range p.Retired {
		n, _ := e.by(k)
		named = named || n
	}
	return named
}

// Pin is how a publisher is trusted by its public half: the keys it had are retired.
func (p Public) Pin() Pin {
	pin := Pin{Key: p.Key}
	for _, e := range p.rotations {
		if r, err := e.rotation(); err == nil { // checked when it was read
			pin.Retired = append(pin.Retired, r.From)
			pin.Sequence = max(pin.Sequence, r.Sequence)
		}
	}
	return pin
}

// Replaces reports whether the key took the place of an earlier one of a pinned publisher.
func (p Public) Replaces(earlier Pin) bool {
	next, err := earlier.follow(p.rotations)
	return err == nil && next.Key.Equal(p.Key)
}
