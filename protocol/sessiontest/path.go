package sessiontest

import (
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// A Path carries UDP packets between one client and one server, badly. It stands for
// the networks that kernels under test cannot imitate.
type Path struct {
	Loss  float64       // the share of packets that vanish
	Delay time.Duration // the longest a packet is held; those behind may overtake it

	front, back *net.UDPConn
	server      netip.AddrPort
	client      atomic.Pointer[netip.AddrPort]
	dead        atomic.Bool
	packets     atomic.Int64

	mu  sync.Mutex
	rng *rand.Rand
	wg  sync.WaitGroup
}

// Open lets the path lead to server and returns where a client finds its other end.
func (p *Path) Open(t *testing.T, server net.Addr) string {
	t.Helper()
	loopback := &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)}
	var err error
	p.front, err = net.ListenUDP("udp4", loopback)
	must(t, err)
	p.back, err = net.ListenUDP("udp4", loopback)
	must(t, err)
	p.server = server.(*net.UDPAddr).AddrPort()
	p.rng = rand.New(rand.NewPCG(3, 4))
	p.wg.Go(func() {
		p.carry(p.front, func(sender netip.AddrPort, b []byte) {
			p.client.Store(&sender)
			_, _ = p.back.WriteToUDPAddrPort(b, p.server)
		})
	})
	p.wg.Go(func() {
		p.carry(p.back, func(_ netip.AddrPort, b []byte) {
			if to := p.client.Load(); to != nil {
				_, _ = p.front.WriteToUDPAddrPort(b, *to)
			}
		})
	})
	t.Cleanup(func() {
		p.front.Close()
		p.back.Close()
		p.wg.Wait()
	})
	return p.front.LocalAddr().String()
}

// Die makes the path lose everything from now on.
func (p *Path) Die() { p.dead.Store(true) }

// Packets is how many came to either end so far.
func (p *Path) Packets() int64 { return p.packets.Load() }

// carry gives what arrives at conn to send: not at all, at once or later.
func (p *Path) carry(conn *net.UDPConn, send func(netip.AddrPort, []byte)) {
	buf := make([]byte, 65536)
	for {
		n, sender, err := conn.ReadFromUDPAddrPort(buf)
		if err != nil {
			return
		}
		p.packets.Add(1)
		p.mu.Lock()
		lost := p.dead.Load() || p.rng.Float64() < p.Loss
		held := time.Duration(p.rng.Float64() * float64(p.Delay))
		p.mu.Unlock()
		switch {
		case lost:
		case held == 0:
			send(sender, buf[:n])
		default:
			b := append([]byte(nil), buf[:n]...)
			p.wg.Add(1)
			time.AfterFunc(held, func() {
				defer p.wg.Done()
				send(sender, b)
			})
		}
	}
}
