package discovery

import (
	"io"
	"net"
	"net/netip"
	"reflect"
	"strconv"
	"testing"
	"time"

	"github.com/hashicorp/memberlist"
)

// FuzzStrangers: whatever comes to the gossip port without the key, as a packet
// or as a stream, nobody is known for it.
func FuzzStrangers(f *testing.F) {
	const userMsg, pushPull, compress, encrypt = 8, 6, 9, 10 // of memberlist's protocol
	s := encodeInfo(&full, false)
	for _, tcp := range []bool{false, true} {
		f.Add([]byte{encrypt, 0, 0, 0, 60, 1, 2, 3}, tcp)
		f.Add([]byte{encrypt, 0xff, 0xff, 0xff, 0xff}, tcp)
		f.Add(append([]byte{pushPull, 0x83, 0xa5, 'N', 'o', 'd', 'e', 's', 1}, s...), tcp)
		f.Add([]byte{compress, 0x82, 0xa4, 'A', 'l', 'g', 'o', 0}, tcp)
		f.Add(append([]byte{244, 6, 'l', 'i', 'm', 'p', 'e', 't', encrypt, 0, 0, 1, 0}, make([]byte, 300)...), tcp) // with the label
		f.Add(append([]byte{244, 6, 'l', 'i', 'm', 'p', 'e', 't', 1}, make([]byte, 60)...), tcp)
		f.Add([]byte{userMsg}, tcp)
	}
	g, err := Open(Config{Bind: "127.0.0.1:0", Key: key, Label: "limpet", Self: Info{ID: 1, Instance: 1, Peer: "127.0.0.1:1"}})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = g.Close() })
	f.Fuzz(func(t *testing.T, data []byte, tcp bool) {
		network := "udp"
		if tcp {
			network = "tcp"
		}
		c, err := net.Dial(network, g.Addr())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close() }()
		_, _ = c.Write(data) // the other side may hang up in the middle, and a packet may be too long
		if stream, ok := c.(*net.TCPConn); ok {
			_ = stream.CloseWrite()
			_ = c.SetDeadline(time.Now().Add(patience))
			if n, err := io.Copy(io.Discard, c); n > 1024 {
				t.Errorf("a stranger got %d bytes, %v", n, err)
			}
		}
		if ps := g.Peers(); len(ps) != 0 {
			t.Errorf("known without the key: %+v", ps)
		}
	})
}

// FuzzNode: what a node tells of itself is taken whole or not at all, it cannot
// pass for this process, and it holds no more than it sent.
func FuzzNode(f *testing.F) {
	f.Add(nodeName(full.ID, full.Instance, 3), encodeInfo(&full, false), []byte{10, 0, 0, 2}, uint16(2382))
	f.Add(nodeName(full.ID, full.Instance, 0), encodeInfo(&full, true), []byte(net.ParseIP("fd00::1")), uint16(1))
	f.Add(nodeName(1, 10, 0), encodeInfo(&Info{ID: 1, Instance: 10}, false), []byte{10, 0, 0, 1}, uint16(2382)) // says it is this process
	f.Add(nodeName(1, 11, 0), encodeInfo(&Info{ID: 1, Instance: 11}, false), []byte{10, 0, 0, 1}, uint16(2382)) // and this member
	f.Add(nodeName(5, 2, 0), encodeInfo(&full, false), []byte{10, 0, 0, 2}, uint16(2382))
	f.Add("x", []byte{}, []byte{}, uint16(0))
	f.Fuzz(func(t *testing.T, name string, meta, addr []byte, port uint16) {
		b := newTable(1, 10, time.Now)
		n, err := readNode(&memberlist.Node{Name: name, Meta: meta, Addr: addr, Port: port})
		if err != nil {
			if !reflect.DeepEqual(n, node{}) {
				t.Errorf("refused (%v), and read as %+v", err, n)
			}
			return
		}
		if id, instance, epoch, err := parseName(name); err != nil || id != n.info.ID || instance != n.info.Instance || epoch != n.epoch {
			t.Errorf("%q is read as %+v", name, n)
		}
		size := len(n.info.Name) + len(n.info.Version) + len(n.info.Peer)
		for _, u := range n.info.Client {
			size += len(u)
		}
		if size > metaSize || len(n.info.Client) > metaSize/2 {
			t.Errorf("%d bytes and %d URLs from %d bytes", size, len(n.info.Client), len(meta))
		}
		taken := b.seen(0, n)
		if self := n.info.Instance == 10; taken == self {
			t.Errorf("instance %d: taken %v", n.info.Instance, taken)
		}
		want := 1
		if !taken || n.info.ID == 1 {
			want = 0 // this member is not its own peer; a copy of it is a conflict
		}
		if ps := b.peers(); len(ps) != want {
			t.Errorf("got %d peers, want %d: %+v", len(ps), want, ps)
		}
		if _, err := netip.ParseAddrPort(n.addr.String()); err != nil {
			t.Errorf("its address cannot be dialled: %v", err)
		}
	})
}

// FuzzSeenFrom: what a beacon's answer announces is a place to try, with a host
// and a port, or nothing.
func FuzzSeenFrom(f *testing.F) {
	for _, a := range []string{"10.0.0.1:5", ":5", "[::]:5", "host:5", "10.0.0.1:0", "[fe80::1%eth0]:5", ":65536", ":+5", "a:b:5"} {
		f.Add(a, []byte{10, 0, 0, 9})
		f.Add(a, []byte(net.ParseIP("fe80::1")))
	}
	f.Fuzz(func(t *testing.T, announced string, source []byte) {
		from, ok := netip.AddrFromSlice(source)
		if !ok {
			return
		}
		got, ok := seenFrom(announced, from)
		if !ok {
			if got != "" {
				t.Errorf("seenFrom(%q, %v) = %q, and no", announced, from, got)
			}
			return
		}
		host, port, err := net.SplitHostPort(got)
		if n, perr := strconv.Atoi(port); err != nil || perr != nil || host == "" || n < 1 || n > 65535 {
			t.Errorf("seenFrom(%q, %v) = %q: %v", announced, from, got, err)
		}
		if ip, err := netip.ParseAddr(host); err == nil && ip.IsUnspecified() && !from.IsUnspecified() {
			t.Errorf("seenFrom(%q, %v) = %q, which is nowhere", announced, from, got)
		}
	})
}
