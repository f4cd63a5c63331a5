package egress

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

// names is a name server: each lookup of a name takes the next of its answers, and the
// last for all after.
type names struct {
	mu      sync.Mutex
	answers map[string][][]string
	asked   []string
}

func (n *names) LookupNetIP(_ context.Context, _, host string) ([]netip.Addr, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.asked = append(n.asked, host)
	answers := n.answers[host]
	if len(answers) == 0 {
		return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
	}
	if len(answers) > 1 {
		n.answers[host] = answers[1:]
	}
	var all []netip.Addr
	for _, a := range answers[0] {
		all = append(all, netip.MustParseAddr(a))
	}
	return all, nil
}

// world stands in for the Internet: what is dialled is noted, and led to a server of the
// test.
type world struct {
	mu     sync.Mutex
	dialed []string
	to     string // host:port on loopback
}

func (w *world) dial(ctx context.Context, network, address string) (net.Conn, error) {
	w.mu.Lock()
	w.dialed = append(w.dialed, address)
	w.mu.Unlock()
	return (&net.Dialer{}).DialContext(ctx, network, w.to)
}

func (w *world) calls() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]string(nil), w.dialed...)
}

// start serves a proxy on loopback until the test ends, and checks that it leaves nothing.
func start(t *testing.T, p *Proxy) string {
	t.Helper()
	if p.Rule.own == nil {
		p.Rule.own = nowhere
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- p.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("the proxy ended with %v", err)
			}
		case <-time.After(20 * time.Second):
			buf := make([]byte, 1<<20)
			t.Errorf("the proxy does not end:\n%s", buf[:runtime.Stack(buf, true)])
		}
	})
	return l.Addr().String()
}

// through is an HTTP client behind a proxy; scheme is http or socks5.
func through(t *testing.T, scheme, proxy string) *http.Client {
	t.Helper()
	u, err := url.Parse(scheme + "://" + proxy)
	if err != nil {
		t.Fatal(err)
	}
	tr := &http.Transport{Proxy: http.ProxyURL(u)}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 20 * time.Second}
}

func hello(t *testing.T) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Seen", fmt.Sprint(r.Host, " ", r.Header))
		_, _ = io.Copy(w, r.Body)
		_, _ = io.WriteString(w, "hello "+r.URL.Path)
	}))
	t.Cleanup(s.Close)
	return s
}

func get(t *testing.T, c *http.Client, url string) (int, string, http.Header) {
	t.Helper()
	res, err := c.Get(url)
	if err != nil {
		return 0, err.Error(), nil
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(b), res.Header
}

var public = &names{answers: map[string][][]string{"web.example.": {{"93.184.216.34"}}}}

func TestProxy_CarriesHTTPAndSOCKS(t *testing.T) {
	w := &world{to: hello(t).Listener.Addr().String()}
	p := &Proxy{Resolver: public, Dial: w.dial}
	proxy := start(t, p)
	for _, scheme := range []string{"http", "socks5"} {
		status, body, header := get(t, through(t, scheme, proxy), "http://web.example/a")
		if status != 200 || body != "hello /a" {
			t.Errorf("%s: %d %q", scheme, status, body)
		}
		seen := header.Get("X-Seen")
		for _, bad := range []string{"Forwarded", "Via", "Proxy", "127.0.0.1"} {
			if strings.Contains(seen, bad) {
				t.Errorf("%s: the server sees %q in %q", scheme, bad, seen)
			}
		}
	}
	for _, call := range w.calls() {
		if call != "93.184.216.34:80" {
			t.Errorf("dialled %s", call)
		}
	}
	tr := p.Traffic()
	if tr.In < 200 || tr.Out < 50 || tr.Connections < 2 || tr.Refused != 0 {
		t.Errorf("counted %+v", tr)
	}
}

func TestProxy_CarriesTLSUntouched(t *testing.T) {
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) }))
	defer s.Close()
	w := &world{to: s.Listener.Addr().String()}
	proxy := start(t, &Proxy{Resolver: &names{answers: map[string][][]string{"example.com.": {{"93.184.216.34"}}}}, Dial: w.dial})
	content := strings.Repeat("0123456789", 1<<18)
	for _, scheme := range []string{"http", "socks5"} {
		c := through(t, scheme, proxy)
		c.Transport.(*http.Transport).TLSClientConfig = s.Client().Transport.(*http.Transport).TLSClientConfig
		res, err := c.Post("https://example.com/", "text/plain", strings.NewReader(content))
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(res.Body)
		res.Body.Close()
		if err != nil || string(b) != content {
			t.Errorf("%s: %d bytes came back, %v", scheme, len(b), err)
		}
	}
}

// closed are urls that lead where no program may go.
var closed = []string{
	"http://169.254.169.254/latest/meta-data/", "http://10.0.0.1/", "http://192.168.1.1/", "http://172.16.3.4/", "http://100.64.1.1/",
	"http://127.0.0.1/", "http://127.8.8.8:8080/", "http://0.0.0.0/", "http://[::1]/", "http://[::]/", "http://[fe80::1%25eth0]/", "http://[fd00:ec2::254]/",
	"http://[::ffff:127.0.0.1]/", "http://[::ffff:a9fe:a9fe]/", "http://[64:ff9b::7f00:1]/", "http://[2002:7f00:1::]/", "http://[2001:0:4136:e378::1]/",
	"http://224.0.0.1/", "http://255.255.255.255/", "http://localhost/", "http://printer/", "http://nas.local/", "http://inside.example/", "http://mixed6.example/",
	"http://nowhere.example/", "http://2130706433/", "http://0x7f.1/", "http://127.1/", "http://017700000001/",
	"http://93.184.216.34:25/", "http://93.184.216.34:22/", "http://93.184.216.34:53/", "http://93.184.216.34:3389/",
	"http://xn--.example../", "http://-a.example/",
}

func TestProxy_LeadsNowhereButToThePublicInternet(t *testing.T) {
	w := &world{to: hello(t).Listener.Addr().String()}
	resolver := &names{answers: map[string][][]string{
		"inside.example.": {{"10.1.1.1", "::1"}}, "mixed6.example.": {{"fd00::1", "::ffff:192.168.1.1"}},
		"localhost.": {{"127.0.0.1"}}, "printer.": {{"93.184.216.34"}}, "nas.local.": {{"93.184.216.34"}},
		"2130706433.": {{"127.0.0.1"}}, "0x7f.1.": {{"127.0.0.1"}}, "127.1.": {{"127.0.0.1"}},
	}}
	p := &Proxy{Resolver: resolver, Dial: w.dial}
	proxy := start(t, p)
	for _, scheme := range []string{"http", "socks5"} {
		c := through(t, scheme, proxy)
		for _, target := range closed {
			if status, body, _ := get(t, c, target); status == 200 {
				t.Errorf("%s over %s: %q", target, scheme, body)
			}
		}
	}
	for _, target := range closed {
		u, err := url.Parse(target)
		if err != nil {
			t.Fatal(err)
		}
		host := u.Host
		if u.Port() == "" {
			host += ":443"
		}
		if answer := say(t, proxy, "CONNECT "+host+" HTTP/1.1\r\nHost: x\r\n\r\n"); strings.Contains(answer, "200") || answer == "" {
			t.Errorf("CONNECT %s: %q", host, answer)
		}
	}
	if calls := w.calls(); len(calls) > 0 {
		t.Errorf("dialled %v", calls)
	}
	if p.Traffic().Refused < int64(len(closed)) {
		t.Errorf("counted %+v", p.Traffic())
	}
	for _, name := range resolver.asked {
		if name == "printer." || name == "nas.local." {
			t.Errorf("the owner's network was asked for %s", name)
		}
	}
}

// say sends raw bytes and returns the first line of the answer.
func say(t *testing.T, proxy, what string) string {
	t.Helper()
	c, err := net.Dial("tcp", proxy)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(c, what); err != nil {
		return ""
	}
	line, _ := bufio.NewReader(c).ReadString('\n')
	return line
}

func TestProxy_ANameThatMovesInsideIsNotFollowed(t *testing.T) {
	w := &world{to: hello(t).Listener.Addr().String()}
	moving := &names{answers: map[string][][]string{"moving.example.": {{"93.184.216.34"}, {"127.0.0.1"}}}}
	proxy := start(t, &Proxy{Resolver: moving, Dial: w.dial})
	one, two := through(t, "socks5", proxy), through(t, "socks5", proxy)
	if status, body, _ := get(t, one, "http://moving.example/"); status != 200 {
		t.Fatalf("%d %s", status, body)
	}
	if status, _, _ := get(t, two, "http://moving.example/"); status == 200 {
		t.Error("the second lookup's address was dialled")
	}
	if calls := w.calls(); len(calls) != 1 || calls[0] != "93.184.216.34:80" {
		t.Errorf("dialled %v: not the address that was checked", calls)
	}
}

func TestProxy_ThePlainDialerChecksOnceMore(t *testing.T) {
	s := hello(t)
	p := &Proxy{Rule: Rule{own: nowhere}, Idle: time.Minute}
	to := netip.MustParseAddrPort(s.Listener.Addr().String())
	if c, err := p.dial(t.Context(), to); err == nil {
		c.Close()
		t.Error("loopback was dialled behind the lookup's back")
	}
}

func TestProxy_AnswersAlikeForUnknownAndPrivateNames(t *testing.T) {
	proxy := start(t, &Proxy{Resolver: &names{answers: map[string][][]string{"fritz.box.": {{"192.168.178.1"}}}}, Dial: (&world{}).dial})
	c := through(t, "http", proxy)
	status1, known, _ := get(t, c, "http://fritz.box/")
	status2, unknown, _ := get(t, c, "http://fritz.bix/")
	if status1 != 403 || status2 != 403 || strings.ReplaceAll(known, "box", "bix") != unknown {
		t.Errorf("%d %q against %d %q", status1, known, status2, unknown)
	}
}

func TestProxy_EveryRedirectGoesThroughTheRule(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "http://169.254.169.254/latest/", http.StatusFound)
	}))
	defer s.Close()
	w := &world{to: s.Listener.Addr().String()}
	proxy := start(t, &Proxy{Resolver: public, Dial: w.dial})
	status, body, _ := get(t, through(t, "http", proxy), "http://web.example/")
	if status != 403 || !strings.Contains(body, "metadata") {
		t.Errorf("%d %q", status, body)
	}
	if calls := w.calls(); len(calls) != 1 {
		t.Errorf("dialled %v", calls)
	}
}

func TestProxy_AllowedPrefixesAreReached(t *testing.T) {
	s := hello(t)
	p := &Proxy{Rule: Rule{Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}}
	proxy := start(t, p)
	for _, scheme := range []string{"http", "socks5"} {
		if status, body, _ := get(t, through(t, scheme, proxy), s.URL+"/x"); status != 200 || body != "hello /x" {
			t.Errorf("%s: %d %q", scheme, status, body)
		}
	}
}

func TestProxy_SOCKSKnowsConnectAlone(t *testing.T) {
	w := &world{to: hello(t).Listener.Addr().String()}
	proxy := start(t, &Proxy{Resolver: public, Dial: w.dial})
	for command, want := range map[byte]byte{1: 0, 2: 7, 3: 7, 9: 7} {
		c, err := net.Dial("tcp", proxy)
		if err != nil {
			t.Fatal(err)
		}
		_ = c.SetDeadline(time.Now().Add(20 * time.Second))
		if _, err := c.Write([]byte{5, 1, 0, 5, command, 0, 1, 93, 184, 216, 34, 0, 80}); err != nil {
			t.Fatal(err)
		}
		answer := make([]byte, 2+10)
		if _, err := io.ReadFull(c, answer); err != nil {
			t.Errorf("command %d: %v", command, err)
		}
		if answer[3] != want {
			t.Errorf("command %d is answered %d, want %d", command, answer[3], want)
		}
		if string(answer[6:]) != "\x00\x00\x00\x00\x00\x00" {
			t.Errorf("the answer tells of the machine's address %v", answer[6:])
		}
		c.Close()
	}
	if calls := w.calls(); len(calls) != 1 {
		t.Errorf("dialled %v", calls)
	}
}

func TestProxy_HalfClosedStreamsAreAnswered(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		b, _ := io.ReadAll(c)
		fmt.Fprintf(c, "%d bytes", len(b))
	}()
	proxy := start(t, &Proxy{Dial: (&world{to: l.Addr().String()}).dial})
	c, err := net.Dial("tcp", proxy)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	// What follows the request at once is the tunnel's.
	fmt.Fprint(c, "CONNECT 93.184.216.34:443 HTTP/1.1\r\nHost: x\r\n\r\nearly")
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	answer, err := io.ReadAll(c)
	if err != nil || !strings.HasSuffix(string(answer), "5 bytes") {
		t.Errorf("%q, %v", answer, err)
	}
}
