package attack

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// arenaAddress is one of the arena's own, from those kept for documentation.
const arenaAddress = "198.51.100.77"

// Namespaces are what a process must be started in to be an arena: whatever attacks reach
// there, with their walls switched off, reaches nothing outside.
const Namespaces = unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS

// OpenArena makes this process's network, which must be new, the whole world: every
// address there is leads to the process itself, so that an attack on a metadata service or
// a name server finds one, and no packet leaves.
func OpenArena() error {
	s, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer unix.Close(s)
	up := binary.NativeEndian.AppendUint32(make([]byte, 4, 16), 1) // struct ifinfomsg: interface 1, lo
	up = binary.NativeEndian.AppendUint32(up, unix.IFF_UP)
	up = binary.NativeEndian.AppendUint32(up, unix.IFF_UP)
	address := netip.MustParseAddr(arenaAddress).AsSlice()
	steps := []struct {
		what string
		kind uint16
		body []byte
	}{
		{"bring lo up", unix.RTM_NEWLINK, up},
		{"add " + arenaAddress, unix.RTM_NEWADDR, attribute(attribute([]byte{unix.AF_INET, 32, 0, 0, 1, 0, 0, 0}, unix.IFA_LOCAL, address), unix.IFA_ADDRESS, address)},
		{"lead IPv4 to lo", unix.RTM_NEWROUTE, everywhere(unix.AF_INET)},
		{"lead IPv6 to lo", unix.RTM_NEWROUTE, everywhere(unix.AF_INET6)},
	}
	for _, step := range steps {
		if err := request(s, step.kind, step.body); err != nil {
			return fmt.Errorf("open the arena: %s: %w", step.what, err)
		}
	}
	return nil
}

// everywhere is a route, struct rtmsg and its attribute, that takes all of a family's
// addresses for local ones.
func everywhere(family byte) []byte {
	route := []byte{family, 0, 0, 0, unix.RT_TABLE_LOCAL, unix.RTPROT_BOOT, unix.RT_SCOPE_HOST, unix.RTN_LOCAL, 0, 0, 0, 0}
	return attribute(route, unix.RTA_OIF, binary.NativeEndian.AppendUint32(nil, 1))
}

// attribute appends one of a netlink message; all here are multiples of four bytes long.
func attribute(b []byte, kind uint16, value []byte) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(4+len(value)))
	return append(binary.NativeEndian.AppendUint16(b, kind), value...)
}

func request(s int, kind uint16, body []byte) error {
	m := binary.NativeEndian.AppendUint32(nil, uint32(unix.NLMSG_HDRLEN+len(body)))
	m = binary.NativeEndian.AppendUint16(m, kind)
	m = binary.NativeEndian.AppendUint16(m, unix.NLM_F_REQUEST|unix.NLM_F_ACK|unix.NLM_F_CREATE)
	m = append(binary.NativeEndian.AppendUint32(m, 1), 0, 0, 0, 0)
	if err := unix.Sendto(s, append(m, body...), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	reply := make([]byte, 4096)
	n, _, err := unix.Recvfrom(s, reply, 0)
	if err != nil {
		return err
	}
	if n < unix.NLMSG_HDRLEN+4 {
		return fmt.Errorf("a reply of %d bytes", n)
	}
	if errno := -int32(binary.NativeEndian.Uint32(reply[unix.NLMSG_HDRLEN:])); errno != 0 {
		return unix.Errno(errno)
	}
	return nil
}
