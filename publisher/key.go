package publisher

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/spare-compute/spare/disk"
)

// A Key is a publisher's private key, with the rotations that led to it. Printed, logged
// or encoded it shows its public name alone.
type Key struct {
	private   ed25519.PrivateKey
	rotations []envelope // from the publisher's first key to this one
	exposed   bool
}

// A Public is the half of a key that others may know: what tickets carry and nodes pin.
type Public struct {
	Key       ed25519.PublicKey
	rotations []envelope
}

// NewKey makes a publisher's first key.
func NewKey() (*Key, error) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make a publisher's key: %w", err)
	}
	return &Key{private: private}, nil
}

// ID names the key.
func (k Key) ID() ID { return IDOf(k.public()) }

func (k Key) public() ed25519.PublicKey { return k.private.Public().(ed25519.PublicKey) }

// Public is the half that may be shown.
func (k Key) Public() Public { return Public{Key: k.public(), rotations: k.rotations} }

// Rotate makes the key that takes this one's place. Both keys sign the statement that
// says so, and whatever the new one signs carries it.
func (k Key) Rotate(now time.Time) (*Key, error) {
	if len(k.rotations) >= maxRotations {
		return nil, fmt.Errorf("this key was rotated %d times, which is as often as is read; make a new publisher's key instead", maxRotations)
	}
	next, err := NewKey()
	if err != nil {
		return nil, err
	}
	payload, err := encode(Rotation{
		From: k.public(), To: next.public(), Sequence: uint64(len(k.rotations)) + 1, Issued: now.UTC().Truncate(time.Second),
	})
	if err != nil {
		return nil, fmt.Errorf("rotate the key: %w", err)
	}
	next.rotations = append(slices.Clone(k.rotations), seal(typeRotation, payload, k.private, next.private))
	return next, nil
}

// String shows a key as people may see it.
func (k Key) String() string { return "publisher key " + k.ID().Short() }

// GoString keeps %#v from showing the private half.
func (k Key) GoString() string { return k.String() }

// Format keeps every verb from showing the private half.
func (k Key) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(k.String())) }

// LogValue keeps logs from showing the private half.
func (k Key) LogValue() slog.Value { return slog.StringValue(k.String()) }

// MarshalText keeps encoders from showing the private half.
func (k Key) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// The first lines of key files, with the version of their form.
const (
	privateHead = "spare publisher private key 1"
	publicHead  = "spare publisher 1"
)

// maxKeyFile is more than a key with all its rotations takes, in bytes.
const maxKeyFile = 64 << 10

// keepsModes is another one in tests: a stick that has no modes is hard to come by.
var keepsModes = disk.KeepsModes

// ReadKey reads a private key's file. One that others may read is refused, unless it lies
// where no file can be its owner's alone.
func ReadKey(path string) (*Key, error) {
	raw, exposed, err := readKeyFile(path)
	if err != nil {
		return nil, fmt.Errorf("read publisher key %s: %w", path, err)
	}
	k, err := parseKey(raw)
	if err != nil {
		return nil, fmt.Errorf("read publisher key %s: %w; restore it from a copy", path, err)
	}
	k.exposed = exposed
	return k, nil
}

// Exposed reports whether the key was read from a file that others may read too, because
// its file system keeps no modes, as those of sticks do.
func (k Key) Exposed() bool { return k.exposed }

func readKeyFile(path string) (raw []byte, exposed bool, err error) {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return nil, false, err
	case !info.Mode().IsRegular() || info.Size() > maxKeyFile:
		return nil, false, errors.New("it is no key file")
	}
	if exposed = runtime.GOOS != "windows" && info.Mode().Perm()&0o077 != 0; exposed {
		if keeps, err := keepsModes(path); keeps || err != nil {
			return nil, false, fmt.Errorf("others may read it (mode %04o); if only you had access so far, run: chmod 600 %s", info.Mode().Perm(), path)
		}
	}
	raw, err = os.ReadFile(path)
	return raw, exposed, err
}

func parseKey(raw []byte) (*Key, error) {
	fields, rotations, err := parseLines(raw, privateHead)
	if err != nil {
		return nil, err
	}
	seed, err := base64.StdEncoding.Strict().DecodeString(fields["private"])
	if err != nil || len(seed) != ed25519.SeedSize {
		return nil, errors.New("the key is damaged") // and is not shown
	}
	k := &Key{private: ed25519.NewKeyFromSeed(seed), rotations: rotations}
	if fields["id"] != string(k.ID()) {
		return nil, errors.New("the key is damaged: it is not the one that its id names")
	}
	return k, k.Public().check()
}

// Save writes the key to a new file that its owner alone may read. It replaces nothing:
// a key that is overwritten is lost.
func (k Key) Save(path string) error {
	raw, err := k.text()
	if err == nil {
		err = disk.Create(path, raw)
	}
	if err != nil {
		return fmt.Errorf("write publisher key %s: %w", path, err)
	}
	return nil
}

// SavedAs reports whether a file holds what Save would write, whoever may read it.
func (k Key) SavedAs(path string) (bool, error) {
	want, err := k.text()
	if err != nil {
		return false, err
	}
	info, err := os.Stat(path)
	if err != nil || !info.Mode().IsRegular() || info.Size() != int64(len(want)) {
		return false, err
	}
	have, err := os.ReadFile(path)
	return bytes.Equal(have, want), err
}

func (k Key) text() ([]byte, error) {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s\nid: %s\nprivate: %s\n", privateHead, k.ID(), base64.StdEncoding.EncodeToString(k.private.Seed()))
	err := writeRotations(&b, k.rotations)
	return b.Bytes(), err
}

// ID names the key.
func (p Public) ID() ID { return IDOf(p.Key) }

// Text is the public half as a file: for the operator of a hub, or for anyone.
func (p Public) Text() ([]byte, error) {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s\nid: %s\nkey: %s\n", publicHead, p.ID(), base64.StdEncoding.EncodeToString(p.Key))
	err := writeRotations(&b, p.rotations)
	return b.Bytes(), err
}

// MarshalText is Text.
func (p Public) MarshalText() ([]byte, error) { return p.Text() }

// UnmarshalText is ParsePublic.
func (p *Public) UnmarshalText(raw []byte) (err error) {
	*p, err = ParsePublic(raw)
	return err
}

// ParsePublic reads what Text wrote, or the key alone in base64.
func ParsePublic(raw []byte) (Public, error) {
	raw = bytes.TrimSpace(raw)
	if key, err := base64.StdEncoding.Strict().DecodeString(string(raw)); err == nil && len(key) == ed25519.PublicKeySize {
		return Public{Key: key}, nil
	}
	if bytes.HasPrefix(raw, []byte(privateHead)) {
		return Public{}, errors.New("this is a private key: keep it to yourself, and give its public half (spare publisher show)")
	}
	fields, rotations, err := parseLines(raw, publicHead)
	if err != nil {
		return Public{}, err
	}
	key, err := base64.StdEncoding.Strict().DecodeString(fields["key"])
	if err != nil || len(key) != ed25519.PublicKeySize {
		return Public{}, errors.New("the key is damaged")
	}
	p := Public{Key: key, rotations: rotations}
	if fields["id"] != string(p.ID()) {
		return Public{}, errors.New("the key is damaged: it is not the one that its id names")
	}
	return p, p.check()
}

// check holds the rotations against the key that they should lead to.
func (p Public) check() error {
	for i, e := range p.rotations {
		r, err := e.rotation()
		if err != nil {
			return err
		}
		last := p.Key
		if i+1 < len(p.rotations) {
			next, err := p.rotations[i+1].rotation()
			if err != nil {
				return err
			}
			last = next.From
		}
		if !last.Equal(r.To) {
			return errors.New("its rotations do not lead to the key")
		}
	}
	return nil
}

func writeRotations(b *bytes.Buffer, rotations []envelope) error {
	for _, e := range rotations {
		raw, err := e.bytes()
		if err != nil {
			return err
		}
		fmt.Fprintf(b, "rotation: %s\n", base64.StdEncoding.EncodeToString(raw))
	}
	return nil
}

// parseLines reads "name: value" lines below a first line that says what they are.
func parseLines(raw []byte, head string) (map[string]string, []envelope, error) {
	if len(raw) > maxKeyFile {
		return nil, nil, errors.New("it is longer than any key")
	}
	first, rest, _ := strings.Cut(strings.TrimSpace(string(raw)), "\n")
	if first = strings.TrimSpace(first); first != head {
		kind, version := head[:len(head)-1], strings.TrimPrefix(first, head[:len(head)-1])
		if strings.HasPrefix(first, kind) && version != "" {
			return nil, nil, fmt.Errorf("it is of version %.10q, and this program reads version %s; update this program", version, head[len(head)-1:])
		}
		return nil, nil, fmt.Errorf("its first line is not %q", head)
	}
	fields, rotations := map[string]string{}, []envelope(nil)
	for line := range strings.Lines(rest) {
		name, value, ok := strings.Cut(strings.TrimSpace(line), ": ")
		if !ok || (name != "rotation" && fields[name] != "") {
			return nil, nil, errors.New("a line in it makes no sense")
		}
		if name != "rotation" {
			fields[name] = value
			continue
		}
		text, err := base64.StdEncoding.Strict().DecodeString(value)
		if err != nil || len(rotations) == maxRotations {
			return nil, nil, errors.New("a rotation in it is damaged")
		}
		e, err := open(text, typeRotation)
		if err != nil {
			return nil, nil, fmt.Errorf("a rotation in it is damaged: %w", err)
		}
		rotations = append(rotations, e)
	}
	return fields, rotations, nil
}
