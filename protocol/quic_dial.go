package protocol

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/spare-compute/spare"
)

const (
	// dialTimeout bounds a dial whose context has no deadline.
	dialTimeout = 15 * time.Second
	// maxDialAddresses is how many of a name's addresses are tried.
	maxDialAddresses = 4
)

// DialQUIC connects to the hub at addr (host:port), which must hold the key that hub
// names. It fails with an *UnreachableError or a *WrongHubError. The node's socket
// takes packets of this connection only; nobody can connect to it.
func DialQUIC(ctx context.Context, addr string, id *Identity, hub spare.NodeID) (Session, error) {
	if _, err := spare.ParseNodeID(string(hub)); err != nil {
		return nil, fmt.Errorf("dial hub %s: its key: %w", addr, err)
	}
	if err := checkAddress(addr); err != nil {
		return nil, fmt.Errorf("dial hub %q: %w", addr, err)
	}
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, dialTimeout)
		defer cancel()
	}
	targets, err := resolve(ctx, addr)
	if err != nil {
		return nil, &UnreachableError{Addr: addr, Err: err}
	}
	var failed error
	for _, target := range targets {
		s, err := dialTarget(ctx, target, addr, id, hub)
		if err == nil {
			return s, nil
		}
		failed = err
		var wrong *WrongHubError
		if errors.As(err, &wrong) || ctx.Err() != nil {
			break
		}
	}
	return nil, failed
}

// DialAny dials the addresses in turn and returns the first session. If there is none
// the error holds each address's reason.
func DialAny(ctx context.Context, addrs []string, id *Identity, hub spare.NodeID) (Session, error) {
	var failed []error
	for _, addr := range addrs {
		s, err := DialQUIC(ctx, addr, id, hub)
		if err == nil {
			return s, nil
		}
		failed = append(failed, err)
		if ctx.Err() != nil {
			break
		}
	}
	if len(failed) == 0 {
		return nil, errors.New("dial hub: no address is known; join again with a new ticket")
	}
	return nil, errors.Join(failed...)
}

// resolve finds the addresses to try, IPv4 and IPv6 in turn: a network that seems to
// have one of them may lead nowhere.
func resolve(ctx context.Context, addr string) ([]netip.AddrPort, error) {
	host, service, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	port, err := strconv.ParseUint(service, 10, 16)
	if err != nil {
		return nil, err
	}
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, err
	}
	var byFamily [2][]netip.AddrPort
	first := -1
	for _, ip := range ips {
		family := 0
		if ip = ip.Unmap(); ip.Is6() {
			family = 1
		}
		if first < 0 {
			first = family
		}
		byFamily[family] = append(byFamily[family], netip.AddrPortFrom(ip, uint16(port)))
	}
	var targets []netip.AddrPort
	for i := range ips {
		for _, family := range []int{first, 1 - first} {
			if i < len(byFamily[family]) {
				targets = append(targets, byFamily[family][i])
			}
		}
	}
	return targets[:min(len(targets), maxDialAddresses)], nil
}

// dialTarget connects to one address, over a socket of its own that lives as long as
// the session.
func dialTarget(ctx context.Context, target netip.AddrPort, addr string, id *Identity, hub spare.NodeID) (Session, error) {
	network := "udp4"
	if target.Addr().Is6() {
		network = "udp6"
	}
	pc, err := net.ListenUDP(network, nil)
	if err != nil {
		return nil, &UnreachableError{Addr: addr, Err: err}
	}
	tr := &quic.Transport{Conn: pc}
	free := func() {
		_ = tr.Close() // the connection is over; nothing is left to save
		_ = pc.Close()
	}
	conn, err := tr.Dial(ctx, net.UDPAddrFromAddrPort(target), clientTLS(id, addr, hub), nodeConfig())
	if err != nil {
		free()
		return nil, dialError(ctx, addr, err)
	}
	return newQUICSession(conn, hub, free), nil
}

// noApplicationProtocol is how QUIC carries TLS's alert 120.
const noApplicationProtocol quic.TransportErrorCode = 0x100 + 120

// dialError says in a user's terms why there is no session.
func dialError(ctx context.Context, addr string, err error) error {
	var wrong *WrongHubError
	var transport *quic.TransportError
	var version *quic.VersionNegotiationError
	var timeout net.Error
	switch {
	case errors.As(err, &wrong):
		return wrong
	case errors.As(err, &version), errors.As(err, &transport) && transport.ErrorCode == noApplicationProtocol:
		err = errNotHub
	case errors.As(err, &transport) && transport.ErrorCode == quic.ConnectionRefused:
		err = errors.New("it takes no new connections now; it may have too many")
	case errors.Is(ctx.Err(), context.Canceled):
		return context.Cause(ctx)
	case errors.As(err, &timeout) && timeout.Timeout():
		err = errors.New("no answer")
	}
	return &UnreachableError{Addr: addr, Err: err}
}
