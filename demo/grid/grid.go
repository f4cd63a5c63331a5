// Package grid runs a hub and nodes as processes of their own on this machine's
// loopback, with data folders of their own, as people would start them. It owns these
// processes and folders and leaves neither behind. It never looks inside a program: it
// uses their flags, what they print and the hub's API. The demo and the benchmarks call it.
package grid

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/spare-compute/spare"
	"github.com/spare-compute/spare/client"
)

// A Grid is a hub and its nodes.
type Grid struct {
	HTTP   string         // the hub's address for people, host:port
	Hub    *Process       // nil until StartHub
	Nodes  []*Node        // in the order they were added
	Client *client.Client // with the admin key

	bin, work, udp string
	procs          processes
}

// A Node is one node of the grid.
type Node struct {
	Name string
	Data string
	Proc *Process
	ID   spare.NodeID
}

// New prepares a grid of the programs in bin. What they print goes to files in logs.
func New(bin, logs string) (*Grid, error) {
	bin, err := filepath.Abs(bin)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(logs, 0o755); err != nil {
		return nil, fmt.Errorf("make a folder for logs: %w", err)
	}
	// Short: a node's local socket lies in its data folder, and its path has a limit.
	work, err := os.MkdirTemp("", "spare-")
	if err != nil {
		return nil, fmt.Errorf("make a work folder: %w", err)
	}
	return &Grid{bin: bin, work: work, procs: processes{logs: logs}}, nil
}

// Work is a scratch folder that goes when the grid is closed.
func (g *Grid) Work() string { return g.work }

// Stop ends every process, and reports what outlived it.
func (g *Grid) Stop() error { return g.procs.end() }

// Close stops the grid and removes its folders.
func (g *Grid) Close() error { return errors.Join(g.Stop(), os.RemoveAll(g.work)) }

// Program is the path of one of Spare's programs.
func (g *Grid) Program(name string) string {
	if runtime.GOOS == "windows" {
		name += ".exe"
	}
	return filepath.Join(g.bin, name)
}

func (g *Grid) hubData() string { return filepath.Join(g.work, "hub") }

// KeyFile holds the hub's first API key.
func (g *Grid) KeyFile() string { return filepath.Join(g.hubData(), "admin.key") }

// StartHub starts the hub, for the first time or again, and returns how long it took
// until it was ready.
func (g *Grid) StartHub(ctx context.Context) (ready time.Duration, err error) {
	if g.HTTP == "" {
		if g.HTTP, err = freeTCP(); err != nil {
			return 0, err
		}
		if g.udp, err = freeUDP(); err != nil {
			return 0, err
		}
	}
	open, err := client.New(client.Options{Hub: g.HTTP, Wait: -1})
	if err != nil {
		return 0, err
	}
	began := time.Now()
	g.Hub, err = g.procs.start("hub", g.Program("spare-hub"), "serve", "--data", g.hubData(), "--http", g.HTTP, "--nodes", g.udp)
	if err != nil {
		return 0, err
	}
	err = g.until(ctx, 30*time.Second, time.Millisecond, "the hub to be ready", func() (bool, error) { return open.Ready(ctx) == nil, nil })
	if err != nil {
		return 0, err
	}
	ready = time.Since(began)
	key, err := os.ReadFile(g.KeyFile())
	if err != nil {
		return 0, fmt.Errorf("read the hub's first API key: %w", err)
	}
	g.Client, err = client.New(client.Options{Hub: g.HTTP, Key: strings.TrimSpace(string(key)), Wait: -1})
	return ready, err
}

// Ticket asks the hub for one that admits some machines.
func (g *Grid) Ticket(ctx context.Context, uses int) (string, error) {
	said, err := Output(ctx, nil, g.Program("spare-hub"), "ticket", "--data", g.hubData(), "--uses", fmt.Sprint(uses))
	return lastLine(said), err
}

// AddNodes lets nodes of these names join by ticket, sets their owners' preferences,
// starts them, and returns once the hub sees them.
func (g *Grid) AddNodes(ctx context.Context, names []string, prefs ...string) error {
	ticket, err := g.Ticket(ctx, len(names))
	if err != nil {
		return err
	}
	errs := make([]error, len(names))
	var wg sync.WaitGroup
	for i, name := range names {
		n := &Node{Name: name, Data: filepath.Join(g.work, name)}
		g.Nodes = append(g.Nodes, n)
		wg.Go(func() { errs[i] = g.join(ctx, n, ticket, prefs) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	for _, n := range g.Nodes {
		if n.Proc != nil {
			continue
		}
		if n.Proc, err = g.procs.start(n.Name, g.Program("spare-node"), "run", "--data", n.Data); err != nil {
			return err
		}
	}
	return g.waitForNodes(ctx)
}

func (g *Grid) join(ctx context.Context, n *Node, ticket string, prefs []string) error {
	if _, err := Output(ctx, nil, g.Program("spare-node"), "join", ticket, "--data", n.Data); err != nil {
		return fmt.Errorf("node %s: %w", n.Name, err)
	}
	args := append([]string{"prefs", "set", "--data", n.Data, "name=" + n.Name}, prefs...)
	if _, err := Output(ctx, nil, g.Program("spare-node"), args...); err != nil {
		return fmt.Errorf("node %s: %w", n.Name, err)
	}
	return nil
}

func (g *Grid) waitForNodes(ctx context.Context) error {
	return g.Until(ctx, 60*time.Second, "the nodes to connect", func() (bool, error) {
		for _, n := range g.Nodes {
			if err, ended := n.Proc.Ended(); ended {
				return false, fmt.Errorf("node %s ended: %w", n.Name, err)
			}
		}
		known, err := g.Client.Nodes(ctx)
		if err != nil {
			return false, err
		}
		up := 0
		for _, n := range g.Nodes {
			for _, k := range known {
				if k.Device.Name == n.Name && k.State != spare.NodeOffline {
					n.ID = k.ID
					up++
				}
			}
		}
		return up == len(g.Nodes), nil
	})
}

// Until asks again and again for something that comes by itself.
func (g *Grid) Until(ctx context.Context, limit time.Duration, what string, done func() (bool, error)) error {
	return g.until(ctx, limit, 20*time.Millisecond, what, done)
}

func (g *Grid) until(ctx context.Context, limit, every time.Duration, what string, done func() (bool, error)) error {
	deadline := time.Now().Add(limit)
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		if err, ended := g.Hub.Ended(); ended {
			return fmt.Errorf("the hub ended while this waited for %s: %w", what, err)
		}
		ok, err := done()
		if ok || err != nil {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("waited %s for %s", limit, what)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// Spare runs the program spare against the hub.
func (g *Grid) Spare(ctx context.Context, args ...string) (string, error) {
	return Output(ctx, []string{"SPARE_HUB=http://" + g.HTTP, "SPARE_KEY_FILE=" + g.KeyFile()}, g.Program("spare"), args...)
}

// Kill ends a process of the grid as a power cut would.
func (g *Grid) Kill(p *Process) error { return g.procs.kill(p) }

// Explain adds what the programs printed last to an error that they have a part in.
func (g *Grid) Explain(err error) error {
	if err == nil || errors.Is(err, context.Canceled) {
		return err
	}
	var b strings.Builder
	list := []*Process{g.Hub}
	for _, n := range g.Nodes {
		list = append(list, n.Proc)
	}
	for _, p := range list {
		if p != nil {
			fmt.Fprintf(&b, "\n--- %s, the end of %s:\n%s", p.name, p.log, p.tail(8))
		}
	}
	return fmt.Errorf("%w%s", err, b.String())
}

// freeTCP and freeUDP find an address on loopback that nobody uses.
func freeTCP() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("find a free port: %w", err)
	}
	return l.Addr().String(), l.Close()
}

func freeUDP() (string, error) {
	l, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("find a free port: %w", err)
	}
	return l.LocalAddr().String(), l.Close()
}
