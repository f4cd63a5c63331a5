package sandbox

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spare-compute/spare/egress"
)

// outbound runs a script with a way out that leads to what rule allows.
func outbound(t *testing.T, rule egress.Rule, script string) ended {
	t.Helper()
	var out bytes.Buffer
	r, err := linux{rule: rule}.Run(t.Context(), Spec{
		Argv: []string{"python3", "-c", "import os, sys, errno, ctypes, socket, time\n" + script}, Network: Outbound, Stdout: &out, Stderr: &out,
		Limits: Limits{Wall: 60 * time.Second, Output: 1 << 20, Processes: 64, Memory: 1 << 30},
	})
	if err != nil {
		t.Fatalf("the sandbox failed: %v\n%s", err, out.Bytes())
	}
	return ended{r, out.String()}
}

var loopbackRule = egress.Rule{Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}

func webServer(t *testing.T) (url string, requests *atomic.Int32) {
	t.Helper()
	requests = new(atomic.Int32)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		_, _ = io.Copy(w, r.Body)
		_, _ = io.WriteString(w, "ok")
	}))
	t.Cleanup(s.Close)
	return s.URL, requests
}

func TestLinux_OutboundReachesServersThroughTheProxy(t *testing.T) {
	url, requests := webServer(t)
	outbound(t, loopbackRule, fmt.Sprintf(`
import urllib.request
print(urllib.request.urlopen(%q, timeout=30).read().decode())`, url)).wantOK(t)
	outbound(t, loopbackRule, fmt.Sprintf(`
import struct
host, port = %q.split("//")[1].split(":")
s = socket.create_connection(("127.0.0.1", %d), 30)
s.sendall(b"\5\1\0" + b"\5\1\0\1" + socket.inet_aton(host) + struct.pack(">H", int(port)))
got = b""
while len(got) < 12: got += s.recv(12 - len(got))
assert got[3] == 0, got
s.sendall(b"GET / HTTP/1.0\r\n\r\n")
got = b""
while True:
    b = s.recv(4096)
    if not b: break
    got += b
print(got.split(b"\r\n\r\n")[1].decode())`, url, proxyPort)).wantOK(t)
	if n := requests.Load(); n != 2 {
		t.Errorf("%d requests", n)
	}
}

func TestLinux_OutboundIsKeptFromTheOwnersNetwork(t *testing.T) {
	url, requests := webServer(t)
	outbound(t, egress.Rule{}, denied+fmt.Sprintf(`
import urllib.request
for url in [%q, "http://169.254.169.254/latest/meta-data/", "http://10.0.0.1/", "http://192.168.1.1/", "http://[::1]/", "http://localhost/", "http://[fe80::1]/"]:
    denied(url, lambda: urllib.request.urlopen(url, timeout=30).read())
finish()`, url)).wantOK(t)
	if n := requests.Load(); n != 0 {
		t.Errorf("%d requests came through", n)
	}
}

func TestLinux_OutboundHasNoOtherWayOut(t *testing.T) {
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	udp, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	name := fmt.Sprintf("@spare-test-%d-%d", os.Getpid(), time.Now().UnixNano())
	abstract, err := net.Listen("unix", name)
	if err != nil {
		t.Fatal(err)
	}
	defer abstract.Close()
	outbound(t, loopbackRule, denied+fmt.Sprintf(`
def connect(family, address, kind=socket.SOCK_STREAM):
    s = socket.socket(family, kind)
    s.settimeout(5)
    s.connect(address)
    s.send(b"x")
    if kind == socket.SOCK_DGRAM: s.recv(1) # what is not there refuses, as an error of the next call
denied("loopback of the host", connect, socket.AF_INET, ("127.0.0.1", %d))
denied("loopback of the host, UDP", connect, socket.AF_INET, ("127.0.0.1", %d), socket.SOCK_DGRAM)
denied("metadata", connect, socket.AF_INET, ("169.254.169.254", 80))
denied("anywhere", connect, socket.AF_INET, ("192.0.2.1", 80))
denied("anywhere, UDP", connect, socket.AF_INET, ("192.0.2.1", 53), socket.SOCK_DGRAM)
denied("anywhere, IPv6", connect, socket.AF_INET6, ("2001:db8::1", 80))
denied("name server", socket.getaddrinfo, "example.com", 80)
denied("abstract socket", connect, socket.AF_UNIX, "\0" + %q[1:])
denied("raw", socket.socket, socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
denied("packet", socket.socket, socket.AF_PACKET, socket.SOCK_RAW)
left = [fd for fd in os.listdir("/proc/self/fd") if int(fd) > 2 and os.path.exists("/proc/self/fd/" + fd)]
if left: bad.append("descriptors: %%r" %% left)
finish()`, tcp.Addr().(*net.TCPAddr).Port, udp.LocalAddr().(*net.UDPAddr).Port, name)).wantOK(t)
	for _, l := range []interface{ SetDeadline(time.Time) error }{tcp.(*net.TCPListener), abstract.(*net.UnixListener), udp} {
		if err := l.SetDeadline(time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	if c, err := tcp.Accept(); err == nil {
		t.Errorf("a connection came through from %v", c.RemoteAddr())
	}
	if _, err := abstract.Accept(); err == nil {
		t.Error("a connection came through the abstract socket")
	}
	if n, _, err := udp.ReadFrom(make([]byte, 1)); err == nil {
		t.Errorf("%d bytes came through by UDP", n)
	}
}

func TestLinux_OutboundEndsWithTheRun(t *testing.T) {
	url, _ := webServer(t)
	before := descriptors(t)
	for range 3 {
		// A connection is left open, and its other end waits for it.
		r := outbound(t, loopbackRule, fmt.Sprintf(`
s = socket.create_connection(("127.0.0.1", %d))
s.sendall(b"CONNECT %s HTTP/1.1\r\nHost: x\r\n\r\n")
print("ok" if b" 200 " in s.recv(4096) else "no")
sys.stdout.flush()
os._exit(0)`, proxyPort, strings.TrimPrefix(url, "http://")))
		r.wantOK(t)
	}
	eventually(t, "the descriptors are closed", func() bool { return descriptors(t) <= before+2 })
}

// descriptors counts this process's open files.
func descriptors(t testing.TB) int {
	t.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(all)
}

func TestLinux_WithoutOutboundThereIsNoProxy(t *testing.T) {
	python(t, denied+`
if [v for v in os.environ if "proxy" in v.lower()]: bad.append("variables name a proxy")
denied("connect", lambda: socket.create_connection(("127.0.0.1", 3128), 5))
finish()`, nil).wantOK(t)
}
