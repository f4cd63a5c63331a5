package attack

import "fmt"

// connects is an attack that connects to an address. In the arena every address is the
// arena's own, so that without walls each of these gets an answer.
func connects(name, tries string, addresses ...string) Attack {
	list := ""
	for _, a := range addresses {
		list += fmt.Sprintf("%q, ", a)
	}
	return Attack{
		Name: name, Tries: tries, Walls: walls("network namespace, seccomp, landlock"),
		Script: "return refused_all(*(lambda a=a: tcp(a) for a in [" + list + "]))",
	}
}

var reach = []Attack{
	connects("connect to the host's services", "Connects to a service that listens on the host's loopback.", "127.0.0.1", "127.8.8.8"),
	connects("connect by IPv6", "Connects to a service on the host's IPv6 loopback.", "::1"),
	connects("ask the metadata service", "Connects to the address where clouds hand out a machine's credentials.", "169.254.169.254", "fd00:ec2::254"),
	connects("reach the local network", "Connects to private addresses: the router, the printer, the file server.", "10.0.0.1", "172.16.0.1", "192.168.1.1", "fd00::1"),
	connects("reach the hub", "Connects to the hub's port, past its node.", "198.51.100.7"),
	connects("reach the Internet", "Connects to public addresses, IPv4 and IPv6.", "192.0.2.1", "2001:db8::1"),
	connects("reach the host by mapped addresses", "Connects to the host by an IPv4 address written as IPv6.", "::ffff:127.0.0.1", "::ffff:169.254.169.254"),
	{
		Name: "send UDP", Tries: "Exchanges datagrams with the host, the local network and the Internet.",
		Walls:  walls("network namespace, seccomp"),
		Script: `return refused_all(*(lambda a=a: udp(a) for a in ["127.0.0.1", "192.168.1.1", "192.0.2.1", "::1", "2001:db8::1"]))`,
	},
	{
		Name: "ask a name server", Tries: "Sends a DNS query for a name that carries data out.",
		Walls: walls("network namespace, seccomp"),
		Script: `
query = struct.pack(">6H", 1, 256, 1, 0, 0, 0) + b"\7payload\7example\0" + struct.pack(">2H", 16, 1)
return refused_all(*(lambda a=a: udp(a, query) for a in ["127.0.0.53", "192.0.2.53", "2001:db8::53"]))`,
	},
	{
		Name: "send raw packets", Tries: "Opens raw IP sockets, by which any packet can be forged.",
		Walls: walls("no capabilities, seccomp"), Proof: BareRoot,
		Script: `
return refused_all(
    lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) and "opened one",
    lambda: socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_RAW) and "opened one for IPv6")`,
	},
	{
		Name: "listen to the wire", Tries: "Opens packet sockets, by which all traffic can be read.",
		Walls: walls("no capabilities, seccomp"), Proof: BareRoot,
		Script: `
return refused_all(*(lambda k=k: socket.socket(socket.AF_PACKET, k, socket.htons(3)) and "opened one" for k in [socket.SOCK_RAW, socket.SOCK_DGRAM]))`,
	},
	{
		Name: "ask netlink for the host's addresses", Tries: "Lists the host's network addresses by netlink.",
		Walls: walls("network namespace"),
		Script: `
with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as s:
    s.settimeout(3)
    s.bind((0, 0))
    s.send(struct.pack("=IHHII8x", 24, 22, 0x301, 1, 0)) # RTM_GETADDR of all
    return socket.inet_aton(H["address"]) in s.recv(1 << 16) and "the host has " + H["address"]`,
	},
	{
		Name: "hear the host's device events", Tries: "Listens to the kernel's device events and audit messages by netlink.",
		Walls: walls("seccomp"),
		Script: `
def listen(kind):
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, kind) as s:
        s.bind((0, 1))
        return "listens to netlink family %d" % kind
return refused_all(*(lambda k=k: listen(k) for k in [15, 9, 11]))`,
	},
	{
		Name: "connect to abstract sockets", Tries: "Connects to an abstract Unix socket of the host, which no file permission guards.",
		Walls: walls("network namespace, landlock"),
		Script: `
with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as s:
    s.settimeout(3)
    s.connect("\0" + H["abstract"])
    return H["token"].encode() in s.recv(100) and "an answer from the abstract socket"`,
	},
	{
		Name: "connect to sockets in folders", Tries: "Connects to the host's Unix sockets in /run and in its folders: engines, buses, agents.",
		Walls: walls("own root, landlock"),
		Script: `
import glob
def one(name):
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as s:
        s.settimeout(3)
        s.connect(name)
        return "connected to " + name
names = [H["unix"]] + glob.glob("/run/*") + glob.glob("/run/*/*") + glob.glob("/var/run/*") + glob.glob("/tmp/*")
return refused_all(*(lambda n=n: one(n) for n in names))`,
	},
	{
		Name: "reach the hypervisor", Tries: "Opens a vsock, by which a guest talks to the machine that runs it, past every network wall.",
		Walls:  walls("seccomp"),
		Script: `return socket.socket(40, socket.SOCK_STREAM) and "opened a vsock"`,
	},
	{
		Name: "open rare sockets", Tries: "Opens sockets of families that nothing needs and that were often broken: crypto, CAN, Bluetooth, TIPC, RDS, XDP, …",
		Walls: walls("seccomp"), Proof: BareRoot,
		Script: `
families = {38: "AF_ALG", 29: "AF_CAN", 31: "AF_BLUETOOTH", 30: "AF_TIPC", 21: "AF_RDS", 44: "AF_XDP", 43: "AF_SMC", 41: "AF_KCM", 5: "AF_APPLETALK", 3: "AF_AX25", 9: "AF_X25", 39: "AF_NFC", 42: "AF_QIPCRTR", 45: "AF_MCTP", 15: "AF_KEY"}
def one(family, kind):
    socket.socket(family, kind).close()
    return "opened " + families[family]
return refused_all(*(lambda f=f, k=k: one(f, k) for f in families for k in [socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW, socket.SOCK_SEQPACKET]))`,
	},
	{
		Name: "inherited sockets", Tries: "Speaks on a connected socket that a careless parent left open.",
		Walls: walls("closed descriptors"),
		Script: `
def one(fd):
    s = socket.socket(fileno=os.dup(fd))
    return said(s)
return refused_all(*(lambda fd=fd: one(fd) for fd in range(3, 256)))`,
	},
}
