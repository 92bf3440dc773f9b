package discovery

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// lan is beacons on loopback that ask each other directly.
type lan struct {
	t     *testing.T
	ports []netip.AddrPort
}

// add opens a beacon on an address of its own that announces self.
func (l *lan) add(host string, change func(*BeaconConfig), self ...string) *Beacon {
	l.t.Helper()
	cfg := BeaconConfig{Key: key, bind: netip.MustParseAddr(host)}
	cfg.targets = func() []netip.AddrPort { return l.ports }
	if self != nil {
		cfg.Self = func() []string { return self }
	}
	if change != nil {
		change(&cfg)
	}
	b, err := OpenBeacon(cfg)
	if err != nil {
		l.t.Fatalf("OpenBeacon(%+v): %v", cfg, err)
	}
	l.t.Cleanup(func() {
		if err := b.Close(); err != nil {
			l.t.Errorf("Close: %v", err)
		}
	})
	l.ports = append(l.ports, localAddr(b.conns[0]))
	return b
}

func find(t *testing.T, b *Beacon, want ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if got, err := b.Find(ctx); err != nil || !slices.Equal(got, want) {
		t.Errorf("Find: got %q, %v, want %q", got, err, want)
	}
}

func TestBeaconFinds(t *testing.T) {
	l := &lan{t: t}
	a := l.add("127.0.0.1", nil, "10.0.0.1:2382")
	b := l.add("127.0.0.2", nil, "0.0.0.0:2382", ":7", "[::]:8", "no address", "10.0.0.2:0")
	l.add("127.0.0.3", nil) // has nothing to say
	stranger := l.add("127.0.0.4", func(c *BeaconConfig) { c.Key = bytes.Repeat([]byte{9}, KeySize) }, "6.6.6.6:2382")

	find(t, a, "127.0.0.2:2382", "127.0.0.2:7", "127.0.0.2:8")
	find(t, b, "10.0.0.1:2382")
	eventually(t, "the stranger has dropped the asks", func() bool { return stranger.Dropped() >= 2 })

	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Find(t.Context()); !errors.Is(err, ErrClosed) {
		t.Errorf("Find after Close: got %v, want ErrClosed", err)
	}
}

// While the key is being changed, beacons with the old, with both and with the
// new key find those with whom they have one in common.
func TestBeaconsOfTwoKeys(t *testing.T) {
	newer := bytes.Repeat([]byte{8}, KeySize)
	l := &lan{t: t}
	old := l.add("127.0.0.1", nil, "10.0.0.1:1")
	both := l.add("127.0.0.2", nil, "10.0.0.2:1")
	fresh := l.add("127.0.0.3", func(c *BeaconConfig) { c.Key = newer }, "10.0.0.3:1")
	if err := both.SetKeys(newer, key); err != nil {
		t.Fatal(err)
	}
	find(t, old, "10.0.0.2:1")
	find(t, both, "10.0.0.1:1", "10.0.0.3:1")
	find(t, fresh, "10.0.0.2:1")
	if err := both.SetKeys(newer); err != nil {
		t.Fatal(err)
	}
	find(t, both, "10.0.0.3:1")
	if err := both.SetKeys(newer, []byte("short")); err == nil {
		t.Error("a short key is taken")
	}
}

func TestBeaconFindsNobody(t *testing.T) {
	l := &lan{t: t}
	a := l.add("127.0.0.1", nil, "10.0.0.1:2382")
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(20*time.Millisecond, cancel)
	if got, err := a.Find(ctx); got != nil || err != nil {
		t.Errorf("got %q, %v, want nobody and no error", got, err)
	}
	l.ports = nil
	if _, err := a.Find(ctx); err == nil {
		t.Error("with nobody to ask: got no error")
	}
}

func TestBeaconAnswersNoStranger(t *testing.T) {
	l := &lan{t: t}
	a := l.add("127.0.0.1", nil, "10.0.0.1:2382")
	c, err := net.Dial("udp", l.ports[0].String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	seal := (*a.seals.Load())[0]
	good := seal.seal(packet{kind: kindAsk, nonce: 1})
	bad := slices.Clone(good)
	bad[len(bad)-1]++
	for _, p := range [][]byte{{}, []byte("lmpt"), bad, good[:len(good)-1], append(slices.Clone(good), 0), make([]byte, 4000)} {
		if _, err := c.Write(p); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.Write(good); err != nil { // handled last, so that all are
		t.Fatal(err)
	}
	answer := make([]byte, 4000)
	n, err := c.Read(answer)
	if err != nil {
		t.Fatal(err)
	}
	if p, err := seal.open(answer[:n]); err != nil || p.nonce != 1 || n > len(good) {
		t.Errorf("got %+v of %d bytes, %v, want an answer to 1 of at most %d", p, n, err, len(good))
	}
	if got := a.Dropped(); got != 6 {
		t.Errorf("%d packets were dropped, want 6", got)
	}
}

func TestBeaconAnswersBounded(t *testing.T) {
	var r rate
	allowed := 0
	now := time.Unix(100, 0)
	for range 100 {
		if r.allow(now, maxAnswers) {
			allowed++
		}
	}
	if allowed != maxAnswers || !r.allow(now.Add(time.Second), maxAnswers) {
		t.Errorf("%d answers within a second, want %d, and again in the next", allowed, maxAnswers)
	}
}

func TestOpenBeaconRefuses(t *testing.T) {
	if _, err := OpenBeacon(BeaconConfig{Key: []byte("short")}); err == nil {
		t.Error("a short key was taken")
	}
	taken := localAddr((&lan{t: t}).add("127.0.0.1", nil).conns[0])
	_, err := OpenBeacon(BeaconConfig{Key: key, Port: int(taken.Port()), bind: taken.Addr()})
	if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("port %d/udp is in use", taken.Port())) {
		t.Errorf("a port in use: got %v", err)
	}
}

func TestBroadcastOf(t *testing.T) {
	for in, want := range map[string]string{
		"192.168.1.5/24": "192.168.1.255", "10.1.2.3/8": "10.255.255.255", "172.16.5.4/20": "172.16.15.255",
		"10.0.0.1/30": "10.0.0.3", "10.0.0.1/31": "", "10.0.0.1/32": "", "fd00::1/64": "",
	} {
		ip, ipnet, err := net.ParseCIDR(in)
		if err != nil {
			t.Fatal(err)
		}
		ipnet.IP = ip
		got, ok := broadcastOf(ipnet)
		if ok != (want != "") || ok && got.String() != want {
			t.Errorf("broadcastOf(%s) = %v, %v, want %q", in, got, ok, want)
		}
	}
}

func TestSeenFrom(t *testing.T) {
	tests := []struct{ addr, from, want string }{
		{"10.0.0.1:5", "10.0.0.9", "10.0.0.1:5"},
		{"host:5", "10.0.0.9", "host:5"},
		{":5", "10.0.0.9", "10.0.0.9:5"},
		{"[::]:5", "fd00::1", "[fd00::1]:5"},
		{":5", "fe80::1%eth0", ""},
		{"nothing", "10.0.0.9", ""},
		{"10.0.0.1:0", "10.0.0.9", ""},
	}
	for _, tt := range tests {
		got, ok := seenFrom(tt.addr, netip.MustParseAddr(tt.from))
		if got != tt.want || ok != (tt.want != "") {
			t.Errorf("seenFrom(%q, %s) = %q, %v, want %q", tt.addr, tt.from, got, ok, tt.want)
		}
	}
}

func TestPacketsComeBack(t *testing.T) {
	s, err := newSealer(key)
	if err != nil {
		t.Fatal(err)
	}
	long := strings.Repeat("h", 200) + ":1"
	many := slices.Repeat([]string{"10.0.0.1:1"}, 50)
	tests := []struct {
		in   packet
		want []string
	}{
		{packet{kind: kindAsk, nonce: 1 << 63}, nil},
		{packet{kind: kindAnswer, addrs: []string{"a:1", "b:2"}}, []string{"a:1", "b:2"}},
		{packet{kind: kindAnswer, addrs: []string{long, long, long}}, []string{long, long}},
		{packet{kind: kindAnswer, addrs: many}, many[:maxAnnounced]},
	}
	for _, tt := range tests {
		b := s.seal(tt.in)
		got, err := s.open(b)
		tt.in.addrs = tt.want
		if err != nil || !reflect.DeepEqual(got, tt.in) || len(b) != packetBytes {
			t.Errorf("got %+v in %d bytes, %v, want %+v in %d", got, len(b), err, tt.in, packetBytes)
		}
	}
}

func FuzzPacket(f *testing.F) {
	f.Add(make([]byte, packetBody))
	f.Add([]byte{1, 0, 0, 0, 0, 0, 0, 0, 9, 1, 0, 3, 'a', ':', '1', 0, 0})
	s, err := newSealer(key)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		if _, err := s.open(body); err == nil {
			t.Error("what was not sealed opens")
		}
		p, err := decodePacket(body)
		if err != nil {
			return
		}
		if len(p.addrs) > maxAnnounced {
			t.Errorf("%d addresses, want at most %d", len(p.addrs), maxAnnounced)
		}
		fit := p // a longer body than comes in a packet may hold more than goes into one
		if len(body) > packetBody {
			fit.addrs = nil
		}
		if again, err := s.open(s.seal(fit)); err != nil || !reflect.DeepEqual(again, fit) {
			t.Errorf("got %+v, %v, want %+v", again, err, fit)
		}
	})
}

// TestBeaconOnALink runs two beacons in network namespaces that a veth pair
// joins: once with IPv4 addresses, once on a link that has IPv6 only.
func TestBeaconOnALink(t *testing.T) {
	if os.Getenv("BEACON_ROLE") != "" {
		t.Skip("this is the helper process")
	}
	if os.Getuid() != 0 {
		t.Skip("needs root for network namespaces")
	}
	if _, err := exec.LookPath("ip"); err != nil {
		t.Skip("needs ip of iproute2")
	}
	for _, tt := range []struct{ name, a, b string }{
		{"IPv4 broadcast", "10.99.0.1/24", "10.99.0.2/24"},
		{"IPv6 multicast", "fd99::1/64", "fd99::2/64"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a, b := netns(t, tt.a, tt.b)
			addrOf := func(prefix string) string { return netip.MustParsePrefix(prefix).Addr().String() }
			said := helper(t, a, "answer", net.JoinHostPort(addrOf(tt.a), "2382"))
			if line := hear(t, said); line != "ready" {
				t.Fatalf("the answering process said %q, want ready", line)
			}
			want := net.JoinHostPort(addrOf(tt.a), "2382")
			if got := hear(t, helper(t, b, "find", "")); got != want {
				t.Errorf("found %q, want %q", got, want)
			}
		})
	}
}

// netns makes two namespaces joined by a link and returns their names.
func netns(t *testing.T, addrA, addrB string) (a, b string) {
	t.Helper()
	run := func(args ...string) {
		t.Helper()
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			t.Skipf("ip %s: %v: %s", strings.Join(args, " "), err, out)
		}
	}
	a, b = fmt.Sprintf("limpet-b%d-a", os.Getpid()), fmt.Sprintf("limpet-b%d-b", os.Getpid())
	for _, ns := range []string{a, b} {
		run("netns", "add", ns)
		t.Cleanup(func() {
			if out, err := exec.Command("ip", "netns", "del", ns).CombinedOutput(); err != nil {
				t.Errorf("ip netns del %s: %v: %s", ns, err, out)
			}
		})
	}
	run("-n", a, "link", "add", "link0", "type", "veth", "peer", "name", "link0", "netns", b)
	for ns, addr := range map[string]string{a: addrA, b: addrB} {
		args := []string{"-n", ns, "addr", "add", addr, "dev", "link0"}
		if strings.Contains(addr, ":") {
			args = append(args, "nodad")
		} else {
			args = append(args, "broadcast", "+")
		}
		run(args...)
		run("-n", ns, "link", "set", "link0", "up")
	}
	return a, b
}

// helper runs this test binary as TestBeaconHelper in a namespace until the
// test ends; its lines come on the channel returned.
func helper(t *testing.T, ns, role, self string) <-chan string {
	t.Helper()
	cmd := exec.Command("ip", "netns", "exec", ns, os.Args[0], "-test.run=^TestBeaconHelper$", "-test.v")
	cmd.Env = append(os.Environ(), "BEACON_ROLE="+role, "BEACON_SELF="+self)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	lines := lineWriter(make(chan string, 8))
	cmd.Stdout, cmd.Stderr = lines, os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stdin.Close() // the helper ends with its input
		if err := cmd.Wait(); err != nil {
			t.Errorf("helper %s: %v", role, err)
		}
	})
	return lines
}

func hear(t *testing.T, lines <-chan string) string {
	t.Helper()
	select {
	case line := <-lines:
		return line
	case <-time.After(patience):
		t.Fatalf("a helper said nothing within %v", patience)
		return ""
	}
}

// lineWriter passes on what follows "said: " on each line written to it.
type lineWriter chan string

func (w lineWriter) Write(p []byte) (int, error) {
	for line := range strings.Lines(string(p)) {
		if _, said, ok := strings.Cut(strings.TrimSpace(line), "said: "); ok {
			w <- said
		}
	}
	return len(p), nil
}

// TestBeaconHelper is a process of TestBeaconOnALink.
func TestBeaconHelper(t *testing.T) {
	role := os.Getenv("BEACON_ROLE")
	if role == "" {
		t.Skip("runs as a process of TestBeaconOnALink")
	}
	cfg := BeaconConfig{Key: key}
	if self := os.Getenv("BEACON_SELF"); self != "" {
		cfg.Self = func() []string { return []string{self} }
	}
	b, err := OpenBeacon(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if role == "find" {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		found, err := b.Find(ctx)
		fmt.Printf("said: %s\n", strings.Join(found, " "))
		if err != nil {
			t.Error(err)
		}
		return
	}
	fmt.Println("said: ready")
	if _, err := os.Stdin.Read(make([]byte, 1)); err == nil {
		t.Error("input instead of its end")
	}
}
