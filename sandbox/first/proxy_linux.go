package first

import (
	"syscall"
	"unsafe"
)

// offerListener brings the loopback of this process's own network up, listens on it, and
// sends the listener to the parent: the only thing that is ever on this network.
func offerListener(o *Orders) error {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC|syscall.SOCK_NONBLOCK, 0)
	if err != nil {
		return fault("make the proxy's socket", err)
	}
	defer func() { _ = syscall.Close(fd) }()
	if o.has(WallNetwork) {
		// struct ifreq: a name of 16 bytes, then the flags.
		request := struct {
			name  [16]byte
			flags uint16
			_     [22]byte
		}{flags: syscall.IFF_UP | syscall.IFF_RUNNING}
		copy(request.name[:], "lo")
		if _, _, e := syscall.RawSyscall(syscall.SYS_IOCTL, uintptr(fd), syscall.SIOCSIFFLAGS, uintptr(unsafe.Pointer(&request))); e != 0 {
			return fault("bring the loopback up", e)
		}
	}
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Port: int(o.Proxy), Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		return fault("bind the proxy's port", err)
	}
	if err := syscall.Listen(fd, listenBacklog); err != nil {
		return fault("listen for the proxy", err)
	}
	if err := syscall.Sendmsg(o.ProxyFD, []byte{0}, syscall.UnixRights(fd), nil, 0); err != nil {
		return fault("hand the proxy's listener out", err)
	}
	return syscall.Close(o.ProxyFD)
}

const listenBacklog = 128
