package guestbook

import (
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/disk"
)

const headFile = "head.json"

// A head says where the book begins and ends. The node's key signs it at every entry.
type head struct {
	Version   int          `json:"version"`
	First     uint64       `json:"first"`      // the oldest entry that is kept
	FirstPrev spare.Digest `json:"first_prev"` // what that entry names as the one before it
	Last      uint64       `json:"last"`
	Hash      spare.Digest `json:"hash"`           // of the last entry's line
	Lost      uint64       `json:"lost,omitempty"` // the entry that tells of an earlier head's loss; 0: none was ever lost
	Signature []byte       `json:"signature,omitempty"`
}

const headVersion = 2 // 1 had no room for what was lost

var (
	errNoHead  = errors.New("the book has no head")
	errBadHead = errors.New("the book's head is not what this node signed")
)

// Signer is the node's identity.
type Signer interface {
	PublicKey() ed25519.PublicKey
	Sign(message []byte) []byte
}

// signed is what the signature is over: a key that signs other things too must never be
// made to sign a head by them.
func (h head) signed() ([]byte, error) {
	h.Signature = nil
	raw, err := json.Marshal(h)
	return append([]byte("spare guest book head\n"), raw...), err
}

func (h head) write(dir string, id Signer) error {
	message, err := h.signed()
	if err != nil {
		return err
	}
	h.Signature = id.Sign(message)
	raw, err := json.Marshal(h)
	if err != nil {
		return err
	}
	return disk.Replace(filepath.Join(dir, headFile), append(raw, '\n'))
}

func readHead(dir string, key ed25519.PublicKey) (head, error) {
	var h head
	raw, err := os.ReadFile(filepath.Join(dir, headFile))
	if errors.Is(err, fs.ErrNotExist) {
		return h, errNoHead
	}
	if err != nil {
		return h, err
	}
	if err := json.Unmarshal(raw, &h); err != nil {
		return head{}, fmt.Errorf("%w: %w", errBadHead, err)
	}
	if h.Version > headVersion {
		return head{}, fmt.Errorf("the guest book was written by a newer version of spare-node (form %d, this program knows %d); update this program", h.Version, headVersion)
	}
	message, err := h.signed()
	if err != nil || !ed25519.Verify(key, message, h.Signature) {
		return head{}, errBadHead
	}
	return h, nil
}
