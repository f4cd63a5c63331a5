package sandbox

import (
	"errors"
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"

	"github.com/spare-compute/spare/sandbox/first"
)

// listenInside orders a TCP listener on the sandbox's own loopback, at 127.0.0.1 and the
// port. The first process makes it, since only it is in that network, and sends its
// descriptor here: what is accepted on it comes from inside, and nothing else of that
// network reaches this process. It comes before start. The connection is this end of the
// way that the descriptor takes, for receiveListener; the caller closes it.
func (r *run) listenInside(port int) (*net.UnixConn, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("make the proxy's way into the sandbox: %w", err)
	}
	r.orders.Proxy, r.orders.ProxyFD = int64(port), first.MountFD+len(r.theirs)
	r.theirs = append(r.theirs, os.NewFile(uintptr(pair[1]), "proxy"))
	ours := os.NewFile(uintptr(pair[0]), "proxy")
	defer func() { _ = ours.Close() }() // the connection has a copy
	way, err := net.FileConn(ours)
	if err != nil {
		return nil, fmt.Errorf("make the proxy's way into the sandbox: %w", err)
	}
	return way.(*net.UnixConn), nil
}

// receiveListener waits for the listener. It fails when the first process ends before it
// made one, and when way is closed.
func receiveListener(way *net.UnixConn) (net.Listener, error) {
	control := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := way.ReadMsgUnix(make([]byte, 1), control)
	if err != nil {
		return nil, fmt.Errorf("receive the sandbox's listener: %w", err)
	}
	messages, err := unix.ParseSocketControlMessage(control[:n])
	if err != nil || len(messages) != 1 {
		return nil, errors.New("receive the sandbox's listener: the first process ended without it")
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return nil, errors.New("receive the sandbox's listener: the message holds no descriptor")
	}
	f := os.NewFile(uintptr(fds[0]), "proxy's listener")
	defer func() { _ = f.Close() }()
	l, err := net.FileListener(f)
	if err != nil {
		return nil, fmt.Errorf("use the sandbox's listener: %w", err)
	}
	return l, nil
}
