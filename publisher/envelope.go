package publisher

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
)

// What an envelope can hold. The types are part of what is signed, so that one kind of
// statement never passes for another.
const (
	typeManifest = "application/vnd.spare.app-manifest.v1+json"
	typeRotation = "application/vnd.spare.key-rotation.v1+json"
)

// Limits of what is read; sizes in bytes.
const (
	maxEnvelope   = 64 << 10
	maxSignatures = 8
	maxRotations  = 32
)

// An envelope is a statement as it was signed: the very bytes, what they are, and the
// signatures over both (the form is DSSE's). Beside an App's manifest lie the rotations
// that lead from the publisher's earlier keys to the one that signs; each proves itself.
type envelope struct {
	Type       string      `json:"payloadType"`
	Payload    []byte      `json:"payload"`
	Signatures []signature `json:"signatures"`
	Rotations  []envelope  `json:"rotations,omitempty"`
}

type signature struct {
	KeyID ID     `json:"keyid"`
	Sig   []byte `json:"sig"`
}

// seal signs a payload with every key.
func seal(kind string, payload []byte, keys ...ed25519.PrivateKey) envelope {
	e := envelope{Type: kind, Payload: payload}
	for _, k := range keys {
		e.Signatures = append(e.Signatures, signature{
			KeyID: IDOf(k.Public().(ed25519.PublicKey)), Sig: ed25519.Sign(k, e.signed()),
		})
	}
	return e
}

// signed is what signatures are over: type and payload, each behind its length.
func (e envelope) signed() []byte {
	b := make([]byte, 0, len(e.Payload)+len(e.Type)+32)
	b = append(b, "DSSEv1 "...)
	b = strconv.AppendInt(b, int64(len(e.Type)), 10)
	b = append(append(append(b, ' '), e.Type...), ' ')
	b = strconv.AppendInt(b, int64(len(e.Payload)), 10)
	return append(append(b, ' '), e.Payload...)
}

// by reports whether the envelope names the key, and whether the key signed it.
func (e envelope) by(key ed25519.PublicKey) (named, good bool) {
	if len(key) != ed25519.PublicKeySize {
		return false, false
	}
	id := IDOf(key)
	for _, s := range e.Signatures {
		if s.KeyID == id {
			named = true
			if ed25519.Verify(key, e.signed(), s.Sig) {
				return true, true
			}
		}
	}
	return named, false
}

// open reads an envelope of a kind. It checks no signature.
func open(raw []byte, kind string) (envelope, error) {
	if len(raw) == 0 {
		return envelope{}, ErrUnsigned
	}
	if len(raw) > maxEnvelope {
		return envelope{}, malformed("it has %d bytes; at most %d are read", len(raw), maxEnvelope)
	}
	var e envelope
	if err := decode(raw, &e); err != nil {
		return envelope{}, malformed("%v", err)
	}
	// One statement has one form: nothing can be changed in it, not even what says nothing.
	if again, err := encode(e); err != nil || !bytes.Equal(again, raw) {
		return envelope{}, malformed("it is not written as this program writes it")
	}
	return e, e.check(kind)
}

func (e envelope) check(kind string) error {
	switch {
	case e.Type != kind:
		return malformed("it is of type %.80q, want %s", e.Type, kind)
	case len(e.Signatures) == 0 || len(e.Signatures) > maxSignatures:
		return malformed("it has %d signatures, want 1 to %d", len(e.Signatures), maxSignatures)
	case len(e.Rotations) > maxRotations:
		return malformed("it has %d key rotations, at most %d are read", len(e.Rotations), maxRotations)
	}
	return nil
}

func (e envelope) bytes() ([]byte, error) {
	raw, err := encode(e)
	if err == nil && len(raw) > maxEnvelope {
		err = fmt.Errorf("the signed manifest would have %d bytes, at most %d are read", len(raw), maxEnvelope)
	}
	return raw, err
}

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrMalformed, fmt.Sprintf(format, args...))
}

// decode reads one JSON value and nothing else. A field that is not known is refused: it
// may say something that this release would not keep to.
func decode(raw []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something follows the JSON object")
	}
	return nil
}

// encode writes JSON for signing: fields in the order of their struct, nothing escaped
// that need not be.
func encode(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}
