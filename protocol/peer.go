package protocol

import (
	"crypto/ed25519"
	"crypto/tls"
	"crypto/x509"
	"errors"

	"github.com/spare-compute/spare"
)

// alpn is the application protocol's name in the TLS handshake.
const alpn = "spare/1"

// maxCertificate is the size in bytes of the largest certificate looked at; ours
// take some 250.
const maxCertificate = 4096

var errPeerCertificate = errors.New("want one certificate with an Ed25519 key")

// peerID names who showed these certificates. There is no authority: TLS has proved
// that the peer holds the key, and the key is the identity. The certificate's names,
// dates and own signature mean nothing and are not looked at.
func peerID(certificates []*x509.Certificate) (spare.NodeID, error) {
	if len(certificates) != 1 || len(certificates[0].Raw) > maxCertificate {
		return "", errPeerCertificate
	}
	key, ok := certificates[0].PublicKey.(ed25519.PublicKey)
	if !ok || len(key) != ed25519.PublicKeySize {
		return "", errPeerCertificate
	}
	return KeyID(key), nil
}

// serverTLS is how the hub shows itself: it takes any key, for it must hear a new
// node's enrolment token before it can tell whom to admit.
func serverTLS(id *Identity) *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		Certificates:           []tls.Certificate{id.cert},
		ClientAuth:             tls.RequireAnyClientCert,
		NextProtos:             []string{alpn},
		SessionTicketsDisabled: true, // a resumed session would not prove the key again
		VerifyConnection: func(cs tls.ConnectionState) error {
			_, err := peerID(cs.PeerCertificates)
			return err
		},
	}
}

// clientTLS is how a node shows itself, and how it makes sure of its hub.
func clientTLS(id *Identity, addr string, hub spare.NodeID) *tls.Config {
	return &tls.Config{
		MinVersion:   tls.VersionTLS13,
		Certificates: []tls.Certificate{id.cert},
		NextProtos:   []string{alpn},
		// No authority vouches for a hub: the check is the key, in VerifyConnection,
		// which runs in every handshake.
		InsecureSkipVerify: true,
		VerifyConnection: func(cs tls.ConnectionState) error {
			got, err := peerID(cs.PeerCertificates)
			if err != nil || got != hub {
				return &WrongHubError{Addr: addr, Want: hub, Got: got}
			}
			return nil
		},
	}
}
