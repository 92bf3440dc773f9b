package discovery

import (
	"bytes"
	"context"
	"errors"
	"net"
	"strings"
	"testing"
	"time"
)

func TestAnotherKeyIsOneWarning(t *testing.T) {
	tests := []struct {
		name string
		key  []byte
		want string // at the one that was called
	}{
		{"another token", bytes.Repeat([]byte{8}, KeySize), "its token differs"},
		{"no token", nil, "started without a token"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			here, there := newSite(t), newSite(t)
			a := here.start(1, "127.0.0.1:0", nil)
			b := there.start(2, "127.0.0.2:0", func(c *Config) { c.Key = tt.key })
			for range 3 {
				if n, err := b.Join(t.Context(), []string{a.Addr()}); n != 0 || err == nil {
					t.Fatalf("Join: got %d, %v, want an error", n, err)
				}
			}
			eventually(t, "a warns", func() bool { return len(here.warnings()) > 0 })
			if w := here.warnings(); len(w) != 1 || !strings.Contains(w[0], tt.want) || !strings.Contains(w[0], "remote=127.0.0.") {
				t.Errorf("called: got warnings %q, want one with %q and the address", w, tt.want)
			}
			if w := there.warnings(); len(w) != 1 || !strings.Contains(w[0], a.Addr()) {
				t.Errorf("calling: got warnings %q, want one that names %s", w, a.Addr())
			}
			if len(a.Peers())+len(b.Peers()) != 0 {
				t.Errorf("got peers %v and %v, want none", a.Peers(), b.Peers())
			}
		})
	}
}

func TestPacketsWithAnotherKeyAreOneWarning(t *testing.T) {
	here, there := newSite(t), newSite(t)
	a := here.start(1, "127.0.0.1:0", nil)
	b := there.start(2, "127.0.0.2:0", func(c *Config) { c.Key = bytes.Repeat([]byte{8}, KeySize) })
	target, err := net.ResolveUDPAddr("udp", a.Addr())
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if _, err := b.current().Ping("anybody", target); err == nil {
			t.Fatal("a ping with another key was answered")
		}
	}
	eventually(t, "a warns", func() bool { return len(here.warnings()) > 0 })
	if w := here.warnings(); len(w) != 1 || !strings.Contains(w[0], b.Addr()) {
		t.Errorf("got warnings %q, want one that names %s", w, b.Addr())
	}
}

func TestOpenRefuses(t *testing.T) {
	taken := newSite(t).start(1, "127.0.0.1:0", nil).Addr()
	tests := []struct {
		name string
		cfg  Config
		want string
	}{
		{"a port in use", Config{Bind: taken, Key: key}, "--gossip-address"},
		{"plain gossip beyond loopback", Config{Bind: "0.0.0.0:0"}, "unencrypted"},
		{"plain gossip everywhere", Config{Bind: ":0"}, "unencrypted"},
		{"a short key", Config{Bind: "127.0.0.1:0", Key: []byte("short")}, "5 bytes, want 32"},
		{"no port", Config{Bind: "127.0.0.1", Key: key}, "--gossip-address"},
		{"an address nobody can dial", Config{Bind: "127.0.0.1:0", Advertise: "0.0.0.0:1", Key: key}, "cannot dial"},
		{"an address of another machine", Config{Bind: "192.0.2.77:0", Key: key}, "--gossip-address"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			g, err := Open(tt.cfg)
			if err == nil {
				g.Close()
				t.Fatalf("Open(%+v) succeeded, want an error with %q", tt.cfg, tt.want)
			}
			if !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Open(%+v): got %q, want %q in it", tt.cfg, err, tt.want)
			}
		})
	}
}

func TestJoinEndsWithItsContext(t *testing.T) {
	s := newSite(t)
	a := s.start(1, "127.0.0.1:0", nil)
	mute, err := net.Listen("tcp", "127.0.0.1:0") // accepts and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer mute.Close()
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(20*time.Millisecond, cancel)
	if n, err := a.Join(ctx, []string{mute.Addr().String()}); n != 0 || !errors.Is(err, context.Canceled) {
		t.Errorf("got %d, %v, want context.Canceled", n, err)
	}
	if n, err := a.Join(t.Context(), []string{a.Addr()}); n != 0 || err != nil {
		t.Errorf("Join(self): got %d, %v, want nobody and no error", n, err)
	}
	if _, err := a.Join(t.Context(), []string{"127.0.0.1:http:1"}); err == nil {
		t.Error("Join of an address that is none succeeded")
	}
}

func TestStrangersCannotFillMemory(t *testing.T) {
	s := newSite(t)
	a := s.start(1, "127.0.0.1:0", nil)
	var conns []net.Conn
	for range 2 * maxStreams {
		c, err := net.Dial("tcp", a.Addr())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		conns = append(conns, c)
	}
	// Those above the bound are hung up on.
	closed := make(chan struct{}, len(conns))
	for _, c := range conns {
		go func() { // Owner: the test; ends when the connection does.
			if _, err := c.Read(make([]byte, 1)); err != nil {
				closed <- struct{}{}
			}
		}()
	}
	for range maxStreams {
		<-closed
	}
	for _, c := range conns {
		c.Close()
	}
	b := s.start(2, "127.0.0.2:0", nil)
	eventually(t, "members are answered again", func() bool {
		n, err := b.Join(t.Context(), []string{a.Addr()})
		return n == 1 && err == nil
	})
}

func TestAStrangersStreamIsBounded(t *testing.T) {
	s := newSite(t)
	a := s.start(1, "127.0.0.1:0", nil)
	// The label, then the beginning of an encrypted state that claims 16 MiB.
	c, err := net.Dial("tcp", a.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	head := append([]byte{244, 6}, "limpet"...)
	head = append(head, 10, 1, 0, 0, 0)
	if _, err := c.Write(head); err != nil {
		t.Fatal(err)
	}
	sent := 0
	for err == nil && sent <= 16<<20 {
		var n int
		n, err = c.Write(make([]byte, 64<<10))
		sent += n
	}
	if err == nil {
		t.Errorf("%d bytes were taken from a stranger, bound is %d", sent, maxStreamBytes)
	}
}
