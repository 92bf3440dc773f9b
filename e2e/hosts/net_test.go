//go:build linux

package hosts

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// greeter is a TCP server on h that tells every caller the host's name.
func greeter(t *testing.T, h *Host) {
	t.Helper()
	var l net.Listener
	if err := h.namespace.do(func() (err error) {
		l, err = net.Listen("tcp4", ":7000")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	// Owner: the test; ends when its cleanup closes the listener.
	go func() {
		defer close(ended)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			io.WriteString(c, h.Name())
			c.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-ended })
}

// greeting is what the greeter at addr says, or why not, to a caller that has little patience.
func greeting(dial func(context.Context, string, string) (net.Conn, error), addr string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
	defer cancel()
	c, err := dial(ctx, "tcp", addr)
	if err != nil {
		return "", err
	}
	defer c.Close()
	text, err := io.ReadAll(c)
	return string(text), err
}

func (h *Host) dial(ctx context.Context, network, addr string) (conn net.Conn, err error) {
	err = h.namespace.do(func() (err error) {
		conn, err = new(net.Dialer).DialContext(ctx, network, addr)
		return err
	})
	return conn, err
}

// reaches checks who can call the greeter on h: the hub, and each other host.
func reaches(t *testing.T, n *Net, h *Host, want ...string) {
	t.Helper()
	eventually(t, func() error {
		var got []string
		if name, err := greeting(n.DialContext, h.Addr(7000)); err == nil && name == h.Name() {
			got = append(got, "hub")
		}
		for _, from := range n.Hosts() {
			if name, err := greeting(from.dial, h.Addr(7000)); err == nil && name == h.Name() {
				got = append(got, from.Name())
			}
		}
		if !slices.Equal(got, want) {
			return fmt.Errorf("%s is reached from %v, want %v", h.Name(), got, want)
		}
		return nil
	})
}

func TestCutsAndHealing(t *testing.T) {
	n := New(t, 3)
	h1, h2, h3 := n.Host(1), n.Host(2), n.Host(3)
	for _, h := range n.Hosts() {
		greeter(t, h)
		reaches(t, n, h, "hub", "h1", "h2", "h3")
	}

	n.Isolate(h1)
	reaches(t, n, h1, "h1")
	reaches(t, n, h2, "hub", "h2", "h3")
	n.Heal(h1)
	reaches(t, n, h1, "hub", "h1", "h2", "h3")

	n.Partition([]*Host{h1}, []*Host{h2, h3})
	reaches(t, n, h1, "hub", "h1")
	reaches(t, n, h2, "hub", "h2", "h3")
	n.HealAll()
	reaches(t, n, h1, "hub", "h1", "h2", "h3")
}

// mailbox is a UDP socket on h for the port that everybody sends to.
func mailbox(t *testing.T, h *Host) *net.UDPConn {
	t.Helper()
	var conn net.PacketConn
	if err := h.namespace.do(func() (err error) {
		conn, err = net.ListenPacket("udp4", ":7001")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn.(*net.UDPConn)
}

func send(t *testing.T, from *net.UDPConn, to, text string) {
	t.Helper()
	if _, err := from.WriteTo([]byte(text), net.UDPAddrFromAddrPort(netip.MustParseAddrPort(to))); err != nil {
		t.Fatalf("send %q to %s: %v", text, to, err)
	}
}

// receive checks which datagrams come next.
func receive(t *testing.T, at *net.UDPConn, want ...string) {
	t.Helper()
	at.SetReadDeadline(time.Now().Add(patience))
	for _, w := range want {
		buf := make([]byte, 100)
		k, _, err := at.ReadFrom(buf)
		if got := string(buf[:k]); err != nil || got != w {
			t.Fatalf("received %q, %v, want %q", got, err, w)
		}
	}
}

func TestOneDirection(t *testing.T) {
	n := New(t, 3)
	m1, m2, m3 := mailbox(t, n.Host(1)), mailbox(t, n.Host(2)), mailbox(t, n.Host(3))
	n.DropOneWay(n.Host(1), n.Host(2))
	// What is dropped is seen to be so by a datagram sent after it that arrives.
	send(t, m1, n.Host(2).Addr(7001), "dropped")
	send(t, m3, n.Host(2).Addr(7001), "from h3")
	receive(t, m2, "from h3")
	send(t, m2, n.Host(1).Addr(7001), "from h2")
	receive(t, m1, "from h2")
}

func TestBroadcastsAreCutToo(t *testing.T) {
	n := New(t, 3)
	m1, m2, m3 := mailbox(t, n.Host(1)), mailbox(t, n.Host(2)), mailbox(t, n.Host(3))
	send(t, m1, "255.255.255.255:7001", "one")
	receive(t, m2, "one")
	receive(t, m3, "one")
	n.Partition([]*Host{n.Host(2)}, []*Host{n.Host(1)})
	send(t, m1, "10.77.1.255:7001", "two")
	receive(t, m3, "two")
	send(t, m3, "10.77.1.255:7001", "three")
	receive(t, m2, "three")
}

func TestReaddress(t *testing.T) {
	n := New(t, 2)
	for _, h := range n.Hosts() {
		greeter(t, h)
	}
	before := n.Host(1).Addr(7000)
	n.Host(1).Readdress(netip.MustParseAddr("10.77.1.99"))
	reaches(t, n, n.Host(1), "hub", "h1", "h2")
	if name, err := greeting(n.DialContext, before); err == nil {
		t.Errorf("%s still answers at its former address %s", name, before)
	}
	n.ReaddressAll(2)
	reaches(t, n, n.Host(1), "hub", "h1", "h2")
	if got, want := n.Host(2).Addr(7000), "10.77.2.12:7000"; got != want {
		t.Errorf("h2 is at %s, want %s", got, want)
	}
	// Two hosts may swap their addresses; what others know of them must not linger.
	one, two := n.Host(1).IP(), n.Host(2).IP()
	n.Host(2).Readdress(netip.MustParseAddr("10.77.2.50"))
	n.Host(1).Readdress(two)
	n.Host(2).Readdress(one)
	reaches(t, n, n.Host(1), "hub", "h1", "h2")
}

func TestPrograms(t *testing.T) {
	n := New(t, 1)
	h := n.Host(1)
	if got := h.Exec("ip", "-o", "-4", "addr", "show", "dev", "eth0"); got.Code != 0 || !strings.Contains(got.Stdout, h.IP().String()) {
		t.Errorf("addresses on %s are %+v, want %s", h.Name(), got, h.IP())
	}
	p := h.Start("sleeper", "/bin/sh", "-c", "echo up; exec sleep 1000")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := p.Log.Wait(ctx, "up"); err != nil {
		t.Fatal(err)
	}
	inside, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", p.PID()))
	outside, err2 := os.Readlink("/proc/self/ns/net")
	if err := errors.Join(err, err2); err != nil || inside == outside {
		t.Errorf("the program runs in %s, the test in %s (%v); want two namespaces", inside, outside, err)
	}
	p.Pause()
	waitState(t, p, "T")
	p.Continue()
	waitState(t, p, "S")
	if exit := p.Terminate(patience); exit.Signal != syscall.SIGTERM {
		t.Errorf("the program ended with %+v, want SIGTERM", exit)
	}
	p.Launch("-c", "exit 3")
	if exit := p.WaitExit(time.Now(), patience); exit.Code != 3 {
		t.Errorf("the program ended with %+v, want code 3", exit)
	}
}

// waitState waits until the kernel calls the process's state want: T stopped, S asleep, D in a call
// that cannot be interrupted.
func waitState(t *testing.T, p *Process, want string) {
	t.Helper()
	eventually(t, func() error {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.PID()))
		if err != nil {
			return err
		}
		_, rest, _ := strings.Cut(string(stat), ") ")
		if !strings.HasPrefix(rest, want) {
			return fmt.Errorf("state of %s is %.1s, want %s", p.Name, rest, want)
		}
		return nil
	})
}

func TestTheMachineItselfIsUntouched(t *testing.T) {
	before := interfaces(t)
	n := New(t, 2)
	n.Isolate(n.Host(1))
	n.ReaddressAll(9)
	if after := interfaces(t); !slices.Equal(after, before) {
		t.Errorf("interfaces are now %v, were %v", after, before)
	}
}

func interfaces(t *testing.T) []string {
	t.Helper()
	all, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, i := range all {
		addrs, err := i.Addrs()
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, fmt.Sprint(i.Name, addrs))
	}
	return names
}
