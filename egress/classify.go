package egress

import "net/netip"

// special are the addresses, beyond those that package netip knows, behind which there is
// no server of the public Internet: IANA's special-purpose registries, and the addresses
// at which cloud providers tell a machine its secrets.
var special = []struct {
	prefix netip.Prefix
	what   string
}{
	{netip.MustParsePrefix("168.63.129.16/32"), "a cloud provider's metadata address"},
	{netip.MustParsePrefix("100.100.100.200/32"), "a cloud provider's metadata address"},
	{netip.MustParsePrefix("169.254.169.254/32"), "a cloud provider's metadata address"},
	{netip.MustParsePrefix("169.254.170.2/32"), "a cloud provider's metadata address"},
	{netip.MustParsePrefix("192.0.0.192/32"), "a cloud provider's metadata address"},
	{netip.MustParsePrefix("fd00:ec2::/32"), "a cloud provider's metadata address"},
	{netip.MustParsePrefix("0.0.0.0/8"), "an address of this machine"},
	{netip.MustParsePrefix("100.64.0.0/10"), "a private address of a provider's network"},
	{netip.MustParsePrefix("192.0.0.0/24"), "a reserved address"},
	{netip.MustParsePrefix("192.0.2.0/24"), "a reserved address"},
	{netip.MustParsePrefix("192.88.99.0/24"), "a reserved address"},
	{netip.MustParsePrefix("198.18.0.0/15"), "a reserved address"},
	{netip.MustParsePrefix("198.51.100.0/24"), "a reserved address"},
	{netip.MustParsePrefix("203.0.113.0/24"), "a reserved address"},
	{netip.MustParsePrefix("240.0.0.0/4"), "a reserved address"},
	{netip.MustParsePrefix("fec0::/10"), "a private address"},
	{netip.MustParsePrefix("2001::/23"), "a reserved address"}, // Teredo among them
	{netip.MustParsePrefix("2001:db8::/32"), "a reserved address"},
	{netip.MustParsePrefix("3fff::/20"), "a reserved address"},
}

var (
	nat64  = netip.MustParsePrefix("64:ff9b::/96")
	sixto4 = netip.MustParsePrefix("2002::/16")
	global = netip.MustParsePrefix("2000::/3") // all there is of the public Internet in IPv6
)

// classify says what an address is if it is not a public one, or "". An address that
// carries another in it is what that one is.
func classify(a netip.Addr) string {
	a = a.Unmap().WithZone("")
	for _, s := range special {
		if s.prefix.Contains(a) {
			return s.what
		}
	}
	switch {
	case a.IsUnspecified():
		return "an address of this machine"
	case a.IsLoopback():
		return "a loopback address"
	case a.IsPrivate():
		return "a private address"
	case a.IsLinkLocalUnicast():
		return "a link-local address"
	case a.IsMulticast():
		return "a multicast address"
	case a.Is4():
		return ""
	}
	b := a.As16()
	switch {
	case nat64.Contains(a):
		return classify(netip.AddrFrom4([4]byte(b[12:16])))
	case sixto4.Contains(a):
		return classify(netip.AddrFrom4([4]byte(b[2:6])))
	case !global.Contains(a):
		return "a reserved address"
	case b[8]&^2 == 0 && b[9] == 0 && b[10] == 0x5e && b[11] == 0xfe: // ISATAP, RFC 5214
		return classify(netip.AddrFrom4([4]byte(b[12:16])))
	}
	return ""
}
