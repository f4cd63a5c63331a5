// Package egress is what strangers may make this machine call: the addresses that a
// submitter's url or a program in a sandbox may lead to, and the proxy through which such
// a program calls them. It owns the rule that keeps the machine, its networks and its
// provider's secrets closed, and enforces it on the very address that is dialled, so that
// neither a redirect nor a name that changes its meaning gets around it. It knows nothing
// of jobs and decides nothing about who may call at all. The hub fetches inputs and
// images under the rule; package sandbox serves the proxy to programs.
package egress

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
)

// A Rule says which addresses may be called. Its zero value allows the public Internet
// alone, without this machine and the networks it stands in.
type Rule struct {
	Allow []netip.Prefix // may be called although they are not public
	Hint  string         // how to allow an address: "an operator can allow it with --allow-fetch"

	own func() ([]net.Addr, error) // this machine's addresses; net.InterfaceAddrs if nil
}

// An AddressError says that an address may not be called.
type AddressError struct {
	Addr netip.Addr
	What string // "a private address"
	Hint string // of the Rule
}

func (e *AddressError) Error() string {
	text := fmt.Sprintf("%s is %s", e.Addr, e.What)
	if e.Hint != "" {
		text += fmt.Sprintf("; %s %s", e.Hint, netip.PrefixFrom(e.Addr.WithZone(""), e.Addr.BitLen()))
	}
	return text
}

// Check is the rule. A nil error means that the address may be called.
func (r Rule) Check(a netip.Addr) error {
	plain := a.Unmap().WithZone("")
	for _, p := range r.Allow {
		if p.Masked().Contains(plain) {
			return nil
		}
	}
	what := classify(plain)
	if what == "" && a.Zone() != "" {
		what = "an address of one network interface"
	}
	if what == "" {
		near, err := r.near(plain)
		if err != nil {
			return err
		}
		what = near
	}
	if what != "" {
		return &AddressError{Addr: plain, What: what, Hint: r.Hint}
	}
	return nil
}

// Control is the rule as a net.Dialer's ControlContext: it sees every address just before
// it is dialled, when no name is left that could be looked up once more.
func (r Rule) Control(_ context.Context, network, address string, _ syscall.RawConn) error {
	ap, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("dial %s %q: it is no address", network, address)
	}
	return r.Check(ap.Addr())
}

// widest are the shortest prefixes, in bits, that are believed to be a network of
// neighbours. Some tunnels claim far more.
const (
	widest4 = 8
	widest6 = 32
)

// near says whether a public address is this machine's own or one on its networks. What
// stands there often trusts its neighbours, and a router keeps everybody else away.
func (r Rule) near(a netip.Addr) (string, error) {
	own := r.own
	if own == nil {
		own = net.InterfaceAddrs
	}
	addrs, err := own()
	if err != nil {
		return "", fmt.Errorf("call %s: this machine's own networks cannot be told from others: %w", a, err)
	}
	for _, addr := range addrs {
		n, ok := addr.(*net.IPNet)
		if !ok {
			continue
		}
		ip, ok := netip.AddrFromSlice(n.IP)
		if !ok {
			continue
		}
		ip = ip.Unmap()
		bits, _ := n.Mask.Size()
		least := widest4
		if ip.Is6() {
			least = widest6
		}
		switch {
		case ip == a:
			return "an address of this machine", nil
		case bits >= least && netip.PrefixFrom(ip, bits).Masked().Contains(a):
			return "an address in this machine's own network", nil
		}
	}
	return "", nil
}

// ErrRefused is matched by every error that says a call is against the rules.
var ErrRefused = errors.New("refused")

// Is makes an AddressError match ErrRefused.
func (e *AddressError) Is(target error) bool { return target == ErrRefused }
