package egress

import (
	"context"
	"errors"
	"io"
	"net"
	"strconv"
	"syscall"
	"time"

	"github.com/things-go/go-socks5"
	"github.com/things-go/go-socks5/statute"
)

// newSocks is the half of a Proxy that speaks SOCKS5. The library reads the requests; what
// they come to is decided here: of its commands CONNECT alone, and names are not looked
// up before the rules have seen them.
func (p *Proxy) newSocks(ctx context.Context) *socks5.Server {
	closed := func(_ context.Context, w io.Writer, _ *socks5.Request) error {
		p.refused.Add(1)
		return socks5.SendReply(w, statute.RepCommandNotSupported, noAddress)
	}
	return socks5.NewServer(
		socks5.WithResolver(unresolved{}),
		socks5.WithBindHandle(closed),
		socks5.WithAssociateHandle(closed),
		socks5.WithConnectHandle(func(_ context.Context, w io.Writer, r *socks5.Request) error {
			return p.socksConnect(ctx, w.(net.Conn), r)
		}),
	)
}

// noAddress is what clients learn of this end's address: the real one would tell a program
// where it is.
var noAddress = &net.TCPAddr{IP: net.IPv4zero}

// unresolved leaves names as they are.
type unresolved struct{}

func (unresolved) Resolve(ctx context.Context, _ string) (context.Context, net.IP, error) {
	return ctx, nil, nil
}

func (p *Proxy) socksConnect(ctx context.Context, c net.Conn, r *socks5.Request) error {
	host := r.DestAddr.FQDN
	if host == "" && r.DestAddr.IP != nil {
		host = r.DestAddr.IP.String()
	}
	server, err := p.open(ctx, net.JoinHostPort(host, strconv.Itoa(r.DestAddr.Port)))
	_ = c.SetDeadline(time.Now().Add(p.Patience))
	if err != nil {
		return socks5.SendReply(c, socksReply(err), noAddress)
	}
	if err := socks5.SendReply(c, statute.RepSuccess, noAddress); err != nil {
		_ = server.Close()
		return err
	}
	tunnel(c, r.Reader, server)
	return nil
}

// socksReply is an error in the protocol's words.
func socksReply(err error) uint8 {
	switch {
	case errors.Is(err, ErrRefused):
		return statute.RepRuleFailure
	case errors.Is(err, syscall.ECONNREFUSED):
		return statute.RepConnectionRefused
	case errors.Is(err, syscall.ENETUNREACH):
		return statute.RepNetworkUnreachable
	}
	return statute.RepHostUnreachable
}
