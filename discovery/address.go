package discovery

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
)

// host is the view of this machine's network, a struct of functions so that
// tests can move a machine to other addresses.
type host struct {
	// addrs returns the addresses of the machine's interfaces.
	addrs func() ([]netip.Addr, error)
	// route returns the address that packets to dst would leave from.
	route func(dst netip.Addr) (netip.Addr, bool)
}

var thisHost = host{addrs: interfaceAddrs, route: routeTo}

func interfaceAddrs() ([]netip.Addr, error) {
	nets, err := net.InterfaceAddrs()
	if err != nil {
		return nil, err
	}
	var addrs []netip.Addr
	for _, n := range nets {
		if ipnet, ok := n.(*net.IPNet); ok {
			if a, ok := netip.AddrFromSlice(ipnet.IP); ok {
				addrs = append(addrs, a.Unmap())
			}
		}
	}
	return addrs, nil
}

// routeTo asks the kernel: connecting a UDP socket sends nothing, but binds it
// to the address of the route. The port does not matter.
func routeTo(dst netip.Addr) (netip.Addr, bool) {
	conn, err := net.Dial("udp", netip.AddrPortFrom(dst, 9).String())
	if err != nil {
		return netip.Addr{}, false
	}
	defer conn.Close() // nothing was written
	a := conn.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap()
	return a, a.IsValid() && !a.IsUnspecified()
}

// beyond are addresses that only a default route leads to (RFC 5737, RFC 3849).
var beyond = []netip.Addr{netip.MustParseAddr("198.51.100.1"), netip.MustParseAddr("2001:db8::1")}

// choose picks the address to tell others: the one that the route to a target
// starts from, else that of the default route, else the best of the
// interfaces. Bridges of containers and VPNs are thereby not taken unless they
// lead to the peers. Addresses that others could not dial (link-local ones need
// a zone, which gossip does not carry) are never chosen; loopback only if there
// is nothing else, or if all targets are on it.
func (h host) choose(targets []netip.Addr) (netip.Addr, error) {
	local, err := h.addrs()
	if err != nil {
		return netip.Addr{}, fmt.Errorf("addresses of this machine: %w", err)
	}
	for _, dst := range slices.Concat(targets, beyond) {
		if dst.IsLoopback() {
			continue // others may still come from elsewhere
		}
		if a, ok := h.route(dst); ok && slices.Contains(local, a) && rank(a) < rankLoopback {
			return a, nil
		}
	}
	slices.SortStableFunc(local, func(a, b netip.Addr) int { return cmp.Compare(rank(a), rank(b)) })
	if len(local) == 0 || rank(local[0]) > rankLoopback {
		return netip.Addr{}, fmt.Errorf("this machine has no address that others could dial")
	}
	return local[0], nil
}

const rankLoopback = 3

// rank orders addresses by how likely others on the same site reach them.
func rank(a netip.Addr) int {
	switch {
	case a.IsLoopback():
		return rankLoopback
	case !a.IsGlobalUnicast():
		return rankLoopback + 1 // link-local, multicast, unspecified
	case a.Is4() && a.IsPrivate():
		return 0
	case a.Is4():
		return 1
	default:
		return 2
	}
}

// resolve turns host:port, or a host alone, into addresses. A name may stand
// for several.
func resolve(ctx context.Context, addr string, defaultPort uint16) ([]netip.AddrPort, error) {
	name, port, err := net.SplitHostPort(addr)
	if err != nil {
		name, port = addr, strconv.Itoa(int(defaultPort))
	}
	p, err := strconv.ParseUint(port, 10, 16)
	if err != nil || p == 0 {
		return nil, fmt.Errorf("gossip address %q: bad port", addr)
	}
	if ip, err := netip.ParseAddr(trimBrackets(name)); err == nil {
		return []netip.AddrPort{netip.AddrPortFrom(ip.Unmap(), uint16(p))}, nil
	}
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", name)
	if err != nil {
		return nil, fmt.Errorf("gossip address %q: %w", addr, err)
	}
	var all []netip.AddrPort
	for _, ip := range ips {
		all = append(all, netip.AddrPortFrom(ip.Unmap(), uint16(p)))
	}
	return all, nil
}

func trimBrackets(s string) string {
	if len(s) > 1 && s[0] == '[' && s[len(s)-1] == ']' {
		return s[1 : len(s)-1]
	}
	return s
}
