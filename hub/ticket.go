package hub

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/hub/store"
	"github.com/spare-compute/spare/hub/store/sqlite"
	"github.com/spare-compute/spare/protocol"
)

const addressFile = "hub.json"

// TicketOptions say what a ticket allows. Zero values mean the defaults.
type TicketOptions struct {
	Pool      string        // default "trusted"
	Uses      int           // how many machines may join; default 1
	Expires   time.Duration // default 24 h
	Addresses []string      // host:port for nodes; default the hub's own
}

// NewTicket makes a ticket for the hub whose data folder this is, whether it runs or not.
func NewTicket(ctx context.Context, data string, opt TicketOptions, now time.Time) (protocol.Ticket, error) {
	var none protocol.Ticket
	if opt.Pool == "" {
		opt.Pool = "trusted"
	}
	if opt.Uses < 1 {
		opt.Uses = 1
	}
	if opt.Expires <= 0 {
		opt.Expires = 24 * time.Hour
	}
	known, err := readAddresses(data)
	if err != nil {
		return none, err
	}
	key, err := spare.ParseNodeID(known.Key)
	if err != nil {
		return none, fmt.Errorf("read %s: %w", filepath.Join(data, addressFile), err)
	}
	if len(opt.Addresses) == 0 {
		if opt.Addresses, err = reachable(known.Nodes); err != nil {
			return none, err
		}
	}
	publishers, err := ReadPublishers(data)
	if err != nil && !errors.Is(err, os.ErrNotExist) { // a hub of an earlier release, not started since, has none
		return none, err
	}
	st, err := sqlite.Open(ctx, filepath.Join(data, "hub.db"), sqlite.Options{})
	if err != nil {
		return none, explainStore(data, err)
	}
	token := make([]byte, 16)
	rand.Read(token)
	expires := now.Add(opt.Expires).Truncate(time.Second)
	err = st.PutToken(ctx, store.Token{
		Hash: spare.Sum(token), Pool: opt.Pool, Owner: "admin", Uses: opt.Uses, Created: now, Expires: expires,
	})
	if err = errors.Join(err, st.Close()); err != nil {
		return none, fmt.Errorf("store the ticket: %w", err)
	}
	return protocol.Ticket{
		HubName: known.Name, Addresses: opt.Addresses, HubKey: key, Pool: opt.Pool, Token: token, Expires: expires,
		Publishers: publishers.keys(),
	}, nil
}

func readAddresses(data string) (Addresses, error) {
	var a Addresses
	raw, err := os.ReadFile(filepath.Join(data, addressFile))
	if errors.Is(err, os.ErrNotExist) {
		return a, fmt.Errorf("%s is no hub's data folder: start the hub once with spare-hub serve --data %s", data, data)
	}
	if err != nil {
		return a, err
	}
	if err := json.Unmarshal(raw, &a); err != nil {
		return a, fmt.Errorf("read %s: %w", filepath.Join(data, addressFile), err)
	}
	return a, nil
}

// reachable is where nodes can find an address that may listen everywhere: on each of
// the machine's own addresses, those of the network before loopback.
func reachable(listen string) ([]string, error) {
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return nil, err
	}
	if ip := net.ParseIP(host); ip == nil || !ip.IsUnspecified() {
		return []string{listen}, nil
	}
	own, err := net.InterfaceAddrs()
	if err != nil {
		return nil, fmt.Errorf("list this machine's addresses: %w", err)
	}
	var found, local []string
	for _, a := range own {
		ipnet, ok := a.(*net.IPNet)
		if !ok || ipnet.IP.IsLinkLocalUnicast() {
			continue
		}
		at := net.JoinHostPort(ipnet.IP.String(), port)
		if ipnet.IP.IsLoopback() {
			local = append(local, at)
		} else {
			found = append(found, at)
		}
	}
	if len(found) == 0 {
		found = local
	}
	return found, nil
}
