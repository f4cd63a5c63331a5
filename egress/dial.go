package egress

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A Resolver looks names up; *net.Resolver is one. Names end in a dot: they are never
// completed by the domains that the machine searches.
type Resolver interface {
	LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error)
}

const (
	lookupTime   = 10 * time.Second
	dialTime     = 10 * time.Second // for one address
	maxAddresses = 6                // of a name that are tried
)

// closedPorts are those at which strangers' programs do harm in the owner's name: sending
// mail, guessing passwords, asking name servers. The web's ports and those above them are
// open.
var closedPorts = []uint16{
	1080, 1433, 1521, 2049, 2375, 2376, 2525, 3306, 3389, 5060, 5061, 5432, 5900, 5901, 6379, 6660, 6661, 6662, 6663, 6664, 6665, 6666, 6667, 6668, 6669, 6697,
	9100, 11211, 27017,
}

// checkPort is the rule for ports. Below 1024 only the web's are open.
func checkPort(port uint16) error {
	if port == 80 || port == 443 || port >= 1024 && !slices.Contains(closedPorts, port) {
		return nil
	}
	return &refusal{fmt.Sprintf("port %d is closed to programs; 80, 443 and most above 1023 are open", port)}
}

// refusal is a call against the rules, in words that tell nothing of this machine's
// networks.
type refusal struct{ why string }

func (r *refusal) Error() string        { return r.why }
func (r *refusal) Is(target error) bool { return target == ErrRefused }

// open connects to a server that a client names.
func (p *Proxy) open(ctx context.Context, address string) (*metered, error) {
	conn, err := p.connect(ctx, address)
	if errors.Is(err, ErrRefused) {
		p.refused.Add(1)
	}
	return conn, err
}

func (p *Proxy) connect(ctx context.Context, address string) (*metered, error) {
	host, service, err := net.SplitHostPort(address)
	if err != nil {
		return nil, &refusal{fmt.Sprintf("%.80q is no server and port", address)}
	}
	port, err := strconv.ParseUint(service, 10, 16)
	if err != nil {
		return nil, &refusal{fmt.Sprintf("%.20q is no port", service)}
	}
	if err := checkPort(uint16(port)); err != nil {
		return nil, err
	}
	if p.spent() {
		return nil, errSpent
	}
	addrs, err := p.resolve(ctx, host)
	if err != nil {
		return nil, err
	}
	for _, a := range addrs {
		var conn net.Conn
		if conn, err = p.dial(ctx, netip.AddrPortFrom(a, uint16(port))); err == nil {
			return p.meter(conn), nil
		}
		if ctx.Err() != nil {
			break
		}
	}
	return nil, err
}

func (p *Proxy) dial(ctx context.Context, to netip.AddrPort) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	if p.Dial != nil {
		return p.Dial(ctx, "tcp", to.String())
	}
	return (&net.Dialer{ControlContext: p.Rule.Control}).DialContext(ctx, "tcp", to.String())
}

// resolve finds the addresses of a host that may be called. Of a name the answer is the
// same whether there is none or it may not be called: a program must not learn what
// names the owner's network knows.
func (p *Proxy) resolve(ctx context.Context, host string) ([]netip.Addr, error) {
	if a, err := netip.ParseAddr(host); err == nil {
		if err := p.Rule.Check(a); err != nil {
			return nil, err
		}
		return []netip.Addr{a.Unmap()}, nil
	}
	unknown := &refusal{fmt.Sprintf("no public address is known for %.80q", host)}
	host = strings.TrimSuffix(host, ".")
	if !isName(host) || len(p.Rule.Allow) == 0 && isLocalName(host) {
		return nil, unknown
	}
	ctx, cancel := context.WithTimeout(ctx, lookupTime)
	defer cancel()
	var resolver Resolver = net.DefaultResolver
	if p.Resolver != nil {
		resolver = p.Resolver
	}
	found, _ := resolver.LookupNetIP(ctx, "ip", host+".")
	open := found[:0:0]
	for _, a := range found {
		if p.Rule.Check(a) == nil && len(open) < maxAddresses {
			open = append(open, a.Unmap())
		}
	}
	if len(open) == 0 {
		return nil, unknown
	}
	return open, nil
}

// CheckHost is the rule for a host that somebody else's proxy is going to look up: what can
// be told from its name. Numbers that are no address here ("127.1", "0x7f.1") are one to
// others.
func (r Rule) CheckHost(host string) error {
	if a, err := netip.ParseAddr(host); err == nil {
		return r.Check(a)
	}
	host = strings.TrimSuffix(host, ".")
	switch last := host[strings.LastIndexByte(host, '.')+1:]; {
	case !isName(host):
		return &refusal{fmt.Sprintf("%.80q is no host", host)}
	case isNumber(last):
		return &refusal{fmt.Sprintf("%.80q may mean an address that is not written in full", host)}
	case len(r.Allow) == 0 && isLocalName(host):
		return &refusal{fmt.Sprintf("%.80q is a name of this machine's own network", host)}
	}
	return nil
}

// isNumber reports whether a part of a name makes it an address in the eyes of a browser.
func isNumber(s string) bool {
	digits := strings.TrimPrefix(strings.ToLower(s), "0x")
	set := "0123456789"
	if len(digits) < len(s) {
		set += "abcdef"
	}
	return s != "" && strings.Trim(digits, set) == ""
}

// isName reports whether a text can be a host's name, which is all that may go to the
// system's resolver.
func isName(s string) bool {
	if s == "" || len(s) > 253 || s[0] == '-' {
		return false
	}
	for _, c := range []byte(s) {
		letter := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '_' || c == '.'
		if !letter {
			return false
		}
	}
	return !strings.Contains(s, "..") && s[0] != '.'
}

// localNames are the endings of names that only the machine or its own network knows.
var localNames = []string{"local", "localhost", "localdomain", "internal", "intranet", "lan", "home", "corp", "private", "home.arpa"}

// isLocalName reports whether asking for a name would only disturb the owner's network.
func isLocalName(s string) bool {
	s = strings.ToLower(s)
	return !strings.Contains(s, ".") || slices.ContainsFunc(localNames, func(end string) bool { return strings.HasSuffix(s, "."+end) })
}
