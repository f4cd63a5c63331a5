package protocol

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/spare-compute/spare"
)

// An Identity is who a machine is: an Ed25519 key, and a certificate that shows the
// key in a TLS handshake and says nothing else.
type Identity struct {
	key  ed25519.PrivateKey
	cert tls.Certificate
	id   spare.NodeID
}

// NewIdentity makes a new one.
func NewIdentity() (*Identity, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	return identityOf(key)
}

// ID is the SHA-256 of the public key.
func (id *Identity) ID() spare.NodeID { return id.id }

// PublicKey is the Ed25519 public key.
func (id *Identity) PublicKey() ed25519.PublicKey { return id.key.Public().(ed25519.PublicKey) }

// Sign signs message with the identity's key.
func (id *Identity) Sign(message []byte) []byte { return ed25519.Sign(id.key, message) }

// KeyID is the name that goes with a public key.
func KeyID(key ed25519.PublicKey) spare.NodeID {
	sum := sha256.Sum256(key)
	return spare.NodeID(hex.EncodeToString(sum[:]))
}

// identityOf adds the certificate. It is made anew at each start: nothing in it but
// the key is ever looked at, so its dates are wide enough for any clock.
func identityOf(key ed25519.PrivateKey) (*Identity, error) {
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		NotBefore:    time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC),
		NotAfter:     time.Date(2200, 1, 1, 0, 0, 0, 0, time.UTC),
		KeyUsage:     x509.KeyUsageDigitalSignature,
	}
	public := key.Public().(ed25519.PublicKey)
	der, err := x509.CreateCertificate(rand.Reader, template, template, public, key)
	if err != nil {
		return nil, fmt.Errorf("make a certificate: %w", err)
	}
	return &Identity{
		key:  key,
		cert: tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key},
		id:   KeyID(public),
	}, nil
}

const pemType = "PRIVATE KEY"

// maxKeyFile is more than a PKCS #8 Ed25519 key in PEM takes, in bytes.
const maxKeyFile = 4096

// LoadIdentity reads the identity kept in the file at path. Where there is no file it
// makes an identity and keeps it there, readable by its owner only.
func LoadIdentity(path string) (*Identity, error) {
	id, err := readIdentity(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return id, err
	}
	if id, err = NewIdentity(); err != nil {
		return nil, err
	}
	if err := id.save(path); err != nil {
		return nil, fmt.Errorf("keep the new key in %s: %w", path, err)
	}
	// Another start of the program may have been first; the file decides.
	return readIdentity(path)
}

func readIdentity(path string) (*Identity, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("read key %s: %w", path, err)
	}
	if !info.Mode().IsRegular() || info.Size() > maxKeyFile {
		return nil, fmt.Errorf("read key %s: not a key file; move it away to have a new key made", path)
	}
	if runtime.GOOS != "windows" && info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("read key %s: others may read it (mode %04o); if only you had access so far, run: chmod 600 %[1]s", path, info.Mode().Perm())
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read key %s: %w", path, err)
	}
	key, err := parseKey(data)
	if err != nil {
		return nil, fmt.Errorf("read key %s: %w; restore it from a copy, or move it away to have a new key made", path, err)
	}
	return identityOf(key)
}

// parseKey reads a key file's content.
func parseKey(data []byte) (ed25519.PrivateKey, error) {
	block, _ := pem.Decode(data)
	if block == nil || block.Type != pemType {
		return nil, errors.New("no PEM block with a private key in it")
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, errors.New("the key is damaged")
	}
	key, ok := parsed.(ed25519.PrivateKey)
	if !ok {
		return nil, errors.New("the key is not an Ed25519 key")
	}
	return key, nil
}

// save writes the key beside path first, so that a crash leaves no half a key, and
// never replaces a file that is there.
func (id *Identity) save(path string) (err error) {
	der, err := x509.MarshalPKCS8PrivateKey(id.key)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".key-*") // mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if e := os.Remove(f.Name()); !errors.Is(e, fs.ErrNotExist) {
			err = errors.Join(err, e)
		}
	}()
	err = pem.Encode(f, &pem.Block{Type: pemType, Bytes: der})
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	err = os.Link(f.Name(), path)
	switch {
	case errors.Is(err, fs.ErrExist):
		return nil
	case err != nil: // a file system without links
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// syncDir makes a new name in a folder durable. Windows needs and allows no such call.
func syncDir(dir string) error {
	if runtime.GOOS == "windows" {
		return nil
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
