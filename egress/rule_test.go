package egress

import (
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"
)

// nowhere is a machine without networks.
func nowhere() ([]net.Addr, error) { return nil, nil }

func TestRule_OnlyThePublicInternetIsCalled(t *testing.T) {
	rule := Rule{Hint: "allow it with --allow-fetch", own: nowhere}
	for what, addrs := range map[string][]string{
		"": {
			"1.1.1.1", "8.8.8.8", "172.15.0.1", "172.32.0.1", "192.169.0.1", "100.63.255.255", "100.128.0.1", "169.253.1.1",
			"2606:4700:4700::1111", "2a00:1450::1", "::ffff:1.1.1.1", "64:ff9b::1.1.1.1", "2002:101:101::1", "2a00::5efe:1.1.1.1",
		},
		"a loopback address": {
			"127.0.0.1", "127.255.1.2", "::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::",
		},
		"a private address": {
			"10.0.0.5", "172.16.0.1", "172.31.255.255", "192.168.1.1", "fd12::1", "fec0::1", "::ffff:10.1.2.3", "64:ff9b::10.0.0.1", "2002:c0a8:101::1",
			"2a00::5efe:10.0.0.1", "2a00::200:5efe:192.168.1.1",
		},
		"a link-local address":                      {"169.254.1.1", "fe80::1", "fe80::1%eth0", "::ffff:169.254.9.9"},
		"a private address of a provider's network": {"100.64.0.1", "100.127.255.254", "::ffff:100.64.0.1"},
		"a multicast address":                       {"224.0.0.1", "239.1.1.1", "ff02::1"},
		"an address of this machine":                {"0.0.0.0", "0.1.2.3", "::", "64:ff9b::"},
		"a cloud provider's metadata address": {
			"169.254.169.254", "169.254.170.2", "168.63.129.16", "100.100.100.200", "192.0.0.192", "fd00:ec2::254", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::",
		},
		"a reserved address": {
			"255.255.255.255", "240.0.0.1", "192.0.2.1", "198.18.0.1", "203.0.113.9", "2001:db8::1", "2001::1", "100::1", "::127.0.0.1", "64:ff9b:1::7f00:1", "4000::1",
		},
	} {
		for _, text := range addrs {
			a := netip.MustParseAddr(text)
			if got := classify(a); got != what {
				t.Errorf("%s is %q, want %q", a, got, what)
			}
			err := rule.Check(a)
			if (err == nil) != (what == "") {
				t.Errorf("%s: %v", a, err)
			}
			if err != nil && (!strings.Contains(err.Error(), "--allow-fetch") || !errors.Is(err, ErrRefused)) {
				t.Errorf("%q does not say what to do", err)
			}
		}
	}
	if err := rule.Check(netip.MustParseAddr("2a00:1450::1%eth0")); err == nil {
		t.Error("an address that names a network interface is called")
	}
	if err := rule.Check(netip.Addr{}); err == nil {
		t.Error("no address at all is called")
	}
}

func TestRule_ItsMakerAllowsPrefixes(t *testing.T) {
	rule := Rule{Allow: []netip.Prefix{netip.MustParsePrefix("10.1.0.9/16"), netip.MustParsePrefix("fd00::/8")}, own: nowhere}
	for text, want := range map[string]bool{
		"10.1.2.3": true, "::ffff:10.1.2.3": true, "10.2.0.1": false, "fd99::1%eth0": true, "127.0.0.1": false, "1.1.1.1": true,
	} {
		if got := rule.Check(netip.MustParseAddr(text)) == nil; got != want {
			t.Errorf("%s is allowed: %v, want %v", text, got, want)
		}
	}
}

func TestRule_NeighboursWithPublicAddressesAreClosed(t *testing.T) {
	network := func(s string) net.Addr {
		ip, n, err := net.ParseCIDR(s)
		if err != nil {
			t.Fatal(err)
		}
		return &net.IPNet{IP: ip, Mask: n.Mask}
	}
	rule := Rule{own: func() ([]net.Addr, error) {
		return []net.Addr{network("93.184.216.5/24"), network("2a00:1450:1:2::7/64"), network("8.8.4.4/0"), network("2606:4700::9/0")}, nil
	}}
	for text, want := range map[string]bool{
		"93.184.216.5": false, "93.184.216.200": false, "93.184.217.1": true, "8.8.4.4": false, "8.8.8.8": true,
		"::ffff:93.184.216.5": false, "2a00:1450:1:2::99": false, "2a00:1450:1:3::99": true, "2606:4700::9": false, "2606:4700::a": true,
	} {
		if got := rule.Check(netip.MustParseAddr(text)) == nil; got != want {
			t.Errorf("%s is allowed: %v, want %v", text, got, want)
		}
	}
	rule.own = func() ([]net.Addr, error) { return nil, errors.New("no netlink") }
	if err := rule.Check(netip.MustParseAddr("1.1.1.1")); err == nil {
		t.Error("an address is called although nobody knows whose it is")
	}
}

func TestRule_TheDialledAddressCounts(t *testing.T) {
	rule := Rule{own: nowhere}
	for _, address := range []string{"127.0.0.1:80", "[::1]:443", "[::ffff:10.0.0.1]:80", "[fe80::1%lo]:80", "localhost:80", ""} {
		if err := rule.Control(t.Context(), "tcp", address, nil); err == nil {
			t.Errorf("%q was dialled", address)
		}
	}
	if err := rule.Control(t.Context(), "tcp4", "1.1.1.1:443", nil); err != nil {
		t.Error(err)
	}
	dialer := &net.Dialer{ControlContext: rule.Control}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if c, err := dialer.DialContext(t.Context(), "tcp", l.Addr().String()); err == nil {
		c.Close()
		t.Error("loopback was dialled")
	}
}

func FuzzClassify(f *testing.F) {
	for _, seed := range []string{"127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::a9fe:a9fe", "2002:7f00:1::", "fe80::1%x", "1.1.1.1", "2a00::5efe:10.0.0.1"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, err := netip.ParseAddr(s)
		if err != nil {
			return
		}
		if classify(a) == "" && (a.Unmap().IsPrivate() || a.Unmap().IsLoopback() || a.Unmap().IsLinkLocalUnicast()) {
			t.Fatalf("%s counts as public", a)
		}
		if a.Is4() && classify(a) != classify(netip.AddrFrom16(a.As16())) {
			t.Fatalf("%s: another verdict when written in IPv6", a)
		}
	})
}
