//go:build linux

package hosts

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"

	"limpet/e2e/proc"
)

// Host is one machine as far as the network is concerned: a namespace with a loopback and eth0.
type Host struct {
	net       *Net
	number    int
	name      string
	namespace *namespace
	addr      atomic.Pointer[netip.Addr]
	disk      *Disk // nil if it has none of its own
}

// Name is h1, h2 and so on.
func (h *Host) Name() string { return h.name }

// IP is the host's address now. It may be called concurrently, as Addr may.
func (h *Host) IP() netip.Addr { return *h.addr.Load() }

// Addr is the host's address now, with a port.
func (h *Host) Addr(port uint16) string { return netip.AddrPortFrom(h.IP(), port).String() }

// NewProcess prepares a program that Launch starts on the host.
func (h *Host) NewProcess(name, path string) *Process {
	h.net.t.Helper()
	return &Process{Process: proc.NewProcess(h.net.t, fmt.Sprintf("%s on %s", name, h.name), path), host: h, path: path}
}

// Start starts the program at path on the host.
func (h *Host) Start(name, path string, args ...string) *Process {
	h.net.t.Helper()
	p := h.NewProcess(name, path)
	p.Launch(args...)
	return p
}

// Exec runs a short-lived program on the host to its end.
func (h *Host) Exec(path string, args ...string) proc.Result {
	h.net.t.Helper()
	var result proc.Result
	err := h.namespace.do(func() error {
		result = proc.Command{Path: path, Args: args}.Run(h.net.t)
		return nil
	})
	if err != nil {
		h.net.t.Fatalf("%s on %s: %v", path, h.name, err)
	}
	return result
}

// Do calls f on a thread that is on the host: programs started by f itself belong there.
func (h *Host) Do(f func() error) error { return h.namespace.do(f) }

// DialContext dials from the host: what listens on its loopback is there, too. It may be called
// concurrently; the address must be numeric, as names would be looked up elsewhere.
func (h *Host) DialContext(ctx context.Context, network, addr string) (conn net.Conn, err error) {
	if _, err := netip.ParseAddrPort(addr); err != nil {
		return nil, fmt.Errorf("dial from %s: %w", h.name, err)
	}
	err = h.namespace.do(func() (err error) {
		conn, err = new(net.Dialer).DialContext(ctx, network, addr)
		return err
	})
	return conn, err
}

// Readdress takes all addresses from the host and gives it ip, while its programs go on. The hub
// gets the subnet's .1, which is also the host's way to everywhere else.
func (h *Host) Readdress(ip netip.Addr) {
	h.net.t.Helper()
	hub := ip.As4()
	hub[3] = 1
	router := netip.AddrFrom4(hub).String()
	h.net.ip(h.net.hub, fmt.Sprintf("addr replace %s/%d dev br0", router, prefixBits))
	h.net.ip(h.namespace, "addr flush dev eth0",
		fmt.Sprintf("addr add %s/%d broadcast + dev eth0", ip, prefixBits),
		"route add default via "+router)
	h.addr.Store(&ip)
	h.net.forget()
}

// Process is a program on a host. It may be launched again with other arguments.
type Process struct {
	*proc.Process
	host *Host
	path string
}

// Use has the program at path be launched from now on, in place of another version of it.
func (p *Process) Use(path string) { p.path = path }

// enterGroup is a shell script that becomes the program after it has entered a control group: what
// the program does first is throttled, too.
const enterGroup = `echo $$ >"$0" && exec "$@"`

// Launch starts the program and does not wait for anything. If the host has a Disk, the program
// feels its throttle.
func (p *Process) Launch(args ...string) {
	t := p.host.net.t
	t.Helper()
	if p.Path = p.path; p.host.disk != nil {
		p.Path = "/bin/sh"
		args = append([]string{"-c", enterGroup, p.host.disk.group.members(), p.path}, args...)
	}
	err := p.host.namespace.do(func() error {
		p.Process.Launch(args...)
		return nil
	})
	if err != nil {
		t.Fatalf("start %s: %v", p.Name, err)
	}
}
