package protocol

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/protocol/pb"
)

// TicketVersion is the newest version of tickets that this release reads and writes.
const TicketVersion = 1

// A Ticket is what an operator gives to someone who adds a machine: where the hub is,
// how to know it, and the right to join. As text it is one line.
type Ticket struct {
	Version    int          // of the text's form; 0 is TicketVersion
	HubName    string       // for people
	Addresses  []string     // host:port for nodes (UDP), best first
	HubKey     spare.NodeID // the hub's key, pinned from the first contact
	Pool       string       // the pool the machine joins
	Token      []byte       // the enrolment token
	Expires    time.Time    // zero: never
	Publishers [][]byte     // Ed25519 public keys of publishers to trust
	Store      string       // base URL of the blob store, if that is not the hub
}

// Errors that a ticket's holder can do something about.
var (
	ErrTicketMangled = errors.New("the ticket is damaged")
	ErrTicketVersion = errors.New("the ticket is of a version that this release does not read")
	ErrTicketExpired = errors.New("the ticket has expired")
)

// Limits of what a ticket may hold; sizes in bytes.
const (
	maxTicket     = 8192
	maxAddresses  = 16
	maxPublishers = 32
	maxName       = 128
	maxToken      = 64
	maxStoreURL   = 512
)

const (
	ticketWord     = "spare"
	ticketChecksum = 6 // bytes of SHA-256 after the content: tells a slip of copying, not a forger
)

// String is the ticket as one line without spaces.
func (t Ticket) String() string {
	body := &pb.Ticket{
		HubName: t.HubName, Addresses: t.Addresses, Pool: t.Pool,
		Token: t.Token, Publishers: t.Publishers, Store: t.Store,
	}
	// A key that is no key leaves the field empty, and the reader says so.
	body.HubKey, _ = hex.DecodeString(string(t.HubKey))
	if !t.Expires.IsZero() {
		body.ExpiresS = t.Expires.Unix()
	}
	raw, err := proto.MarshalOptions{Deterministic: true}.Marshal(body)
	if err != nil { // text that is not UTF-8, which Check refuses
		return ""
	}
	prefix := ticketWord + strconv.Itoa(TicketVersion) + ":"
	return prefix + base64.RawURLEncoding.EncodeToString(append(raw, checksum(prefix, raw)...))
}

func checksum(prefix string, raw []byte) []byte {
	h := sha256.New()
	h.Write([]byte(prefix))
	h.Write(raw)
	return h.Sum(nil)[:ticketChecksum]
}

// ParseTicket reads a ticket's text. Space around it or inside it, as a mail program
// or a terminal adds, does no harm; anything else that was changed is found out.
func ParseTicket(s string) (Ticket, error) {
	if len(s) > 2*maxTicket {
		return Ticket{}, mangled("it is longer than any ticket")
	}
	s = strings.Join(strings.Fields(s), "")
	s = strings.Trim(s, `"'`+"`")
	prefix, text, err := cutPrefix(s)
	if err != nil {
		return Ticket{}, err
	}
	data, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil {
		return Ticket{}, mangled("a character in it is not part of any ticket, or its end is missing")
	}
	if len(data) < ticketChecksum || len(data) > maxTicket {
		return Ticket{}, mangled("its end is missing, or something follows it")
	}
	raw, sum := data[:len(data)-ticketChecksum], data[len(data)-ticketChecksum:]
	if !bytes.Equal(sum, checksum(prefix, raw)) {
		return Ticket{}, mangled("characters are missing or changed")
	}
	body := new(pb.Ticket)
	if err := proto.Unmarshal(raw, body); err != nil {
		return Ticket{}, mangled("its content makes no sense")
	}
	t := Ticket{
		Version: TicketVersion, HubName: body.HubName, Addresses: body.Addresses,
		HubKey: spare.NodeID(hex.EncodeToString(body.HubKey)), Pool: body.Pool,
		Token: body.Token, Publishers: body.Publishers, Store: body.Store,
	}
	if body.ExpiresS != 0 {
		t.Expires = time.Unix(body.ExpiresS, 0).UTC()
	}
	if err := t.Check(); err != nil {
		return Ticket{}, fmt.Errorf("%w; ask the hub's operator for a new one (spare-hub ticket)", err)
	}
	return t, nil
}

// cutPrefix takes "spare<version>:" off a ticket.
func cutPrefix(s string) (prefix, text string, err error) {
	word, text, ok := strings.Cut(s, ":")
	digits, isTicket := strings.CutPrefix(word, ticketWord)
	if !ok || !isTicket {
		return "", "", mangled(`it does not begin with "spare` + strconv.Itoa(TicketVersion) + `:", so its beginning is missing or this is something else`)
	}
	version, err := strconv.ParseUint(digits, 10, 16)
	if err != nil || strconv.FormatUint(version, 10) != digits {
		return "", "", mangled("its version number makes no sense")
	}
	if version != TicketVersion {
		return "", "", fmt.Errorf("%w: it has version %d, this program reads version %d; update this program, or ask for a ticket from an older hub",
			ErrTicketVersion, version, TicketVersion)
	}
	return word + ":", text, nil
}

func mangled(why string) error {
	return fmt.Errorf("%w: %s; copy the whole line again", ErrTicketMangled, why)
}

// Check says what keeps a ticket from being of use, apart from its age.
func (t Ticket) Check() error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%w: "+format, append([]any{ErrTicketMangled}, args...)...)
	}
	if t.Version != 0 && t.Version != TicketVersion {
		return fmt.Errorf("%w: %d", ErrTicketVersion, t.Version)
	}
	if _, err := spare.ParseNodeID(string(t.HubKey)); err != nil {
		return bad("the hub's key is missing")
	}
	if len(t.Addresses) == 0 || len(t.Addresses) > maxAddresses {
		return bad("it names %d addresses of the hub, want 1 to %d", len(t.Addresses), maxAddresses)
	}
	for _, a := range t.Addresses {
		if err := checkAddress(a); err != nil {
			return bad("the hub's address %.80q: %v", a, err)
		}
	}
	for _, s := range []string{t.HubName, t.Pool} {
		if s != printable(s, maxName) {
			return bad("a name in it is longer than %d bytes or has characters that cannot be shown", maxName)
		}
	}
	if len(t.Token) > maxToken {
		return bad("the token has %d bytes, at most %d are allowed", len(t.Token), maxToken)
	}
	if len(t.Publishers) > maxPublishers {
		return bad("it names %d publishers, at most %d are allowed", len(t.Publishers), maxPublishers)
	}
	for _, k := range t.Publishers {
		if len(k) != ed25519.PublicKeySize {
			return bad("a publisher's key has %d bytes, want %d", len(k), ed25519.PublicKeySize)
		}
	}
	return checkStore(t.Store, bad)
}

func checkStore(store string, bad func(string, ...any) error) error {
	if store == "" {
		return nil
	}
	u, err := url.Parse(store)
	if err != nil || len(store) > maxStoreURL || u.Host == "" || (u.Scheme != "https" && u.Scheme != "http") {
		return bad("the store's address is no web address")
	}
	return nil
}

// checkAddress wants host:port, with a port that can be dialled.
func checkAddress(addr string) error {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return errors.New("want host:port")
	}
	if host == "" || len(host) > 255 || host != printable(host, 255) || strings.ContainsAny(host, " /\\") {
		return errors.New("want a name or an IP address before the port")
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return errors.New("want a port from 1 to 65535")
	}
	return nil
}

// ClockSkew is how wrong a machine's clock may be without harm.
const ClockSkew = 24 * time.Hour

// CheckExpiry refuses a ticket whose time is over by any clock. The hub, which issued
// it, decides the day in between: a node's own clock may be wrong.
func (t Ticket) CheckExpiry(now time.Time) error {
	if t.Expires.IsZero() || now.Before(t.Expires.Add(ClockSkew)) {
		return nil
	}
	return fmt.Errorf("%w (it was good until %s); ask the hub's operator for a new one (spare-hub ticket)", ErrTicketExpired, t.Expires.Format(time.RFC1123))
}
