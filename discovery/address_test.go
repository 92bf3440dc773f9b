package discovery

import (
	"net/netip"
	"slices"
	"testing"
)

func addrs(ss ...string) []netip.Addr {
	var all []netip.Addr
	for _, s := range ss {
		all = append(all, netip.MustParseAddr(s))
	}
	return all
}

func TestChoose(t *testing.T) {
	home := addrs("127.0.0.1", "::1", "fe80::1", "172.17.0.1", "10.8.0.2", "192.168.1.5", "fd00::5")
	tests := []struct {
		name    string
		local   []netip.Addr
		routes  map[string]string // by destination
		targets []netip.Addr
		want    string
	}{
		{"the route to the peers", home, map[string]string{"10.8.0.1": "10.8.0.2", "198.51.100.1": "192.168.1.5"}, addrs("10.8.0.1"), "10.8.0.2"},
		{"else the default route", home, map[string]string{"198.51.100.1": "192.168.1.5"}, nil, "192.168.1.5"},
		{"of IPv6, if there is no other", addrs("::1", "fe80::1", "fd00::5"), map[string]string{"2001:db8::1": "fd00::5"}, nil, "fd00::5"},
		{"else a private address", addrs("127.0.0.1", "8.8.8.8", "fd00::5", "192.168.1.5"), nil, nil, "192.168.1.5"},
		{"else any", addrs("127.0.0.1", "fd00::5"), nil, nil, "fd00::5"},
		{"else loopback", addrs("fe80::1", "127.0.0.1"), nil, nil, "127.0.0.1"},
		{"a route from an address that is not ours any more", home, map[string]string{"198.51.100.1": "192.168.9.9"}, nil, "172.17.0.1"},
		{"a link-local route", home, map[string]string{"fe80::2": "fe80::1", "198.51.100.1": "192.168.1.5"}, addrs("fe80::2"), "192.168.1.5"},
		{"targets on this machine", home, map[string]string{"127.0.0.1": "127.0.0.1", "198.51.100.1": "192.168.1.5"}, addrs("127.0.0.1"), "192.168.1.5"},
		{"none", addrs("fe80::1"), nil, nil, ""},
		{"none at all", nil, nil, nil, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := host{
				addrs: func() ([]netip.Addr, error) { return slices.Clone(tt.local), nil },
				route: func(dst netip.Addr) (netip.Addr, bool) {
					a, err := netip.ParseAddr(tt.routes[dst.String()])
					return a, err == nil
				},
			}
			got, err := h.choose(tt.targets)
			if (err != nil) != (tt.want == "") || err == nil && got.String() != tt.want {
				t.Errorf("got %v, %v, want %q", got, err, tt.want)
			}
		})
	}
}

func TestResolve(t *testing.T) {
	tests := []struct{ in, want string }{
		{"10.0.0.1:5", "10.0.0.1:5"},
		{"10.0.0.1", "10.0.0.1:2382"},
		{"[fd00::1]:5", "[fd00::1]:5"},
		{"fd00::1", "[fd00::1]:2382"},
		{"[fd00::1]", "[fd00::1]:2382"},
		{"localhost:7", "127.0.0.1:7"},
		{"10.0.0.1:0", ""},
		{"10.0.0.1:99999", ""},
		{"10.0.0.1:http", ""},
	}
	for _, tt := range tests {
		got, err := resolve(t.Context(), tt.in, 2382)
		if tt.want == "" {
			if err == nil {
				t.Errorf("resolve(%q) = %v, want an error", tt.in, got)
			}
			continue
		}
		if err != nil || !slices.Contains(got, netip.MustParseAddrPort(tt.want)) {
			t.Errorf("resolve(%q) = %v, %v, want %s", tt.in, got, err, tt.want)
		}
	}
}

func TestThisHost(t *testing.T) {
	local, err := thisHost.addrs()
	if err != nil || !slices.Contains(local, netip.MustParseAddr("127.0.0.1")) {
		t.Errorf("addrs: got %v, %v, want loopback in it", local, err)
	}
	if a, ok := thisHost.route(netip.MustParseAddr("127.0.0.7")); !ok || !a.IsLoopback() {
		t.Errorf("route to 127.0.0.7: got %v, %v, want one from loopback", a, ok)
	}
}
