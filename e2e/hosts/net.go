//go:build linux

package hosts

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// FirstSubnet is where the hosts of a new Net are. Each Net has it for itself.
const FirstSubnet = 1

// prefixBits is the length of every subnet: the hub is .1, host i is .10+i.
const prefixBits = 24

// Net is some hosts on one bridge. DialContext may be called concurrently, the other methods
// belong to the test's goroutine.
type Net struct {
	t      testing.TB
	hub    *namespace
	hosts  []*Host
	filter filter
}

// New makes so many hosts, h1 and on, that reach each other and the hub. They end with the test,
// which is skipped where hosts cannot be made.
func New(t testing.TB, count int) *Net {
	t.Helper()
	needs(t, "ip", "nft")
	n := &Net{t: t, filter: filter{cut: map[direction]bool{}}}
	n.hub = n.newNamespace()
	n.ip(n.hub, "link set lo up",
		// Without a querier on the bridge, snooping would swallow multicast.
		"link add br0 type bridge forward_delay 0 mcast_snooping 0", "link set br0 up")
	for i := range count {
		n.hosts = append(n.hosts, n.newHost(i+1))
	}
	n.ReaddressAll(FirstSubnet)
	n.applyFilter()
	return n
}

// needs skips a test that lacks root or a program.
func needs(t testing.TB, programs ...string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("network namespaces and mounts need root")
	}
	packages := map[string]string{"ip": "iproute2", "nft": "nftables", "mkfs.ext4": "e2fsprogs", "mount": "mount"}
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			t.Skipf("there is no %s here: install the Debian package %s", p, packages[p])
		}
	}
}

func (n *Net) newNamespace() *namespace {
	n.t.Helper()
	s, err := newNamespace()
	if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EINVAL) {
		n.t.Skipf("network namespaces are not allowed here: %v", err)
	}
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(s.close)
	return s
}

func (n *Net) newHost(i int) *Host {
	n.t.Helper()
	h := &Host{net: n, number: i, name: fmt.Sprintf("h%d", i), namespace: n.newNamespace()}
	n.ip(n.hub,
		fmt.Sprintf("link add %s type veth peer name eth0 netns %s", h.name, h.namespace.path()),
		fmt.Sprintf("link set %s master br0", h.name), fmt.Sprintf("link set %s up", h.name))
	n.ip(h.namespace, "link set lo up", "link set eth0 up")
	return h
}

// Host is host i, from 1 on.
func (n *Net) Host(i int) *Host { return n.hosts[i-1] }

// Hosts are all of them.
func (n *Net) Hosts() []*Host { return n.hosts }

// DialContext dials from the hub, where a test's clients belong. The address must be numeric:
// names would be looked up elsewhere.
func (n *Net) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	if _, err := netip.ParseAddrPort(addr); err != nil {
		return nil, fmt.Errorf("dial from the hub: %w", err)
	}
	var conn net.Conn
	err := n.hub.do(func() (err error) {
		conn, err = new(net.Dialer).DialContext(ctx, network, addr)
		return err
	})
	return conn, err
}

// Listen listens in the hub, on a port that the kernel chooses, until the test ends. Hosts reach it at
// the listener's address.
func (n *Net) Listen() net.Listener {
	n.t.Helper()
	hub := n.hosts[0].IP().As4()
	hub[3] = 1
	var l net.Listener
	err := n.hub.do(func() (err error) {
		l, err = net.Listen("tcp4", netip.AddrPortFrom(netip.AddrFrom4(hub), 0).String())
		return err
	})
	if err != nil {
		n.t.Fatalf("listen in the hub: %v", err)
	}
	n.t.Cleanup(func() { l.Close() })
	return l
}

// Isolate cuts h off from everybody, the clients in the hub included. Its interface stays up and
// keeps its address.
func (n *Net) Isolate(h *Host) {
	n.t.Helper()
	n.cutOff(h.name, hubPort)
	n.Partition([]*Host{h}, n.hosts)
}

// Partition cuts every host in a off from every host in b; the clients in the hub still reach both.
func (n *Net) Partition(a, b []*Host) {
	n.t.Helper()
	for _, x := range a {
		for _, y := range b {
			if x != y {
				n.cutOff(x.name, y.name)
			}
		}
	}
	n.applyFilter()
}

func (n *Net) cutOff(a, b string) {
	n.filter.drop(a, b)
	n.filter.drop(b, a)
}

// DropOneWay drops what from sends to to, and only that.
func (n *Net) DropOneWay(from, to *Host) {
	n.t.Helper()
	n.filter.drop(from.name, to.name)
	n.applyFilter()
}

// Heal ends every cut that concerns h.
func (n *Net) Heal(h *Host) {
	n.t.Helper()
	n.filter.mend(h.name)
	n.applyFilter()
}

// HealAll ends every cut.
func (n *Net) HealAll() {
	n.t.Helper()
	clear(n.filter.cut)
	n.applyFilter()
}

func (n *Net) applyFilter() {
	n.t.Helper()
	n.run(n.hub, n.filter.script(), "nft", "-f", "-")
}

// ReaddressAll moves every host to 10.77.subnet.0/24, as when a site gets another router. Host
// i gets the address .10+i.
func (n *Net) ReaddressAll(subnet byte) {
	n.t.Helper()
	for _, h := range n.hosts {
		h.Readdress(netip.AddrFrom4([4]byte{10, 77, subnet, byte(10 + h.number)}))
	}
}

// forget makes everybody ask again who has which address, as DHCP clients make them do by
// announcing a new one.
func (n *Net) forget() {
	n.t.Helper()
	n.ip(n.hub, "neigh flush all")
	for _, h := range n.hosts {
		n.ip(h.namespace, "neigh flush all")
	}
}

// ip runs commands of iproute2 inside s.
func (n *Net) ip(s *namespace, commands ...string) {
	n.t.Helper()
	n.run(s, strings.Join(commands, "\n")+"\n", "ip", "-batch", "-")
}

// run runs a short command inside s; the test fails if the command does.
func (n *Net) run(s *namespace, input, name string, args ...string) {
	n.t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Stdin = strings.NewReader(input)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := s.do(cmd.Run); err != nil {
		n.t.Fatalf("%s: %v\n%s%s", cmd, err, out.String(), input)
	}
}
