package peer

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"testing"
	"time"
)

// said is a connection from somebody who has said all, and hears what is
// answered.
type said struct {
	io.Reader
	heard bytes.Buffer
	shut  bool
}

func (s *said) Write(b []byte) (int, error)      { return s.heard.Write(b) }
func (s *said) Close() error                     { s.shut = true; return nil }
func (s *said) LocalAddr() net.Addr              { return &net.TCPAddr{IP: net.IPv4(10, 0, 0, 1), Port: 2380} }
func (s *said) RemoteAddr() net.Addr             { return &net.TCPAddr{IP: net.IPv4(10, 0, 0, 2), Port: 40000} }
func (s *said) SetDeadline(time.Time) error      { return nil }
func (s *said) SetReadDeadline(time.Time) error  { return nil }
func (s *said) SetWriteDeadline(time.Time) error { return nil }

// lobby is a port without listeners: connections are put before it by hand, and
// it notes whom it was asked to admit.
type lobby struct {
	*Port
	admitted []Hello
}

// newLobby refuses members whose ID is odd.
func newLobby(cfg Config) *lobby {
	l := &lobby{}
	cfg.Self = func() Hello { return Hello{Protocol: Protocol, ID: 0xb, Instance: 1, Cluster: 7, Name: "b"} }
	cfg.Admit = func(h Hello) *Refusal {
		l.admitted = append(l.admitted, h)
		if h.ID%2 == 1 {
			return &Refusal{Removed, "it is odd"}
		}
		return nil
	}
	cfg.Notices, cfg.Logger = new(Notices), slog.New(slog.DiscardHandler)
	l.Port = &Port{
		cfg: cfg, log: cfg.Logger, raft: make(chan net.Conn, 1), calls: make(chan net.Conn, 1),
		open: make(map[*conn]struct{}), links: make(map[uint64]*link),
	}
	l.ctx, l.quit = context.WithCancel(context.Background())
	return l
}

// handedOn is what the connection was taken for, "" if it was closed.
func (l *lobby) handedOn() string {
	select {
	case <-l.raft:
		return "raft"
	case <-l.calls:
		return "calls"
	default:
		return ""
	}
}

// A connection is handed on for what it was made for, and for nothing else.
func TestPurposes(t *testing.T) {
	for why, want := range map[Purpose]string{Raft: "raft", Call: "calls", Ask: "calls", Look: "", "": "", "errand": ""} {
		l := newLobby(Config{})
		defer l.quit()
		var b bytes.Buffer
		if err := writeJSON(&b, magic, Hello{Protocol: Protocol, ID: 2, Cluster: 7, Purpose: why}); err != nil {
			t.Fatal(err)
		}
		c := &said{Reader: &b}
		l.receive(c)
		if got := l.handedOn(); got != want || c.shut != (want == "") {
			t.Errorf("purpose %q: handed on to %q, closed %v; want %q", why, got, c.shut, want)
		}
		if answer := new(Answer); readJSON(&c.heard, answer) != nil || answer.ID != 0xb {
			t.Errorf("purpose %q: got the answer %+v, want who is here", why, answer)
		}
	}
}

// FuzzWelcome: whatever comes to the peer port, only a whole greeting is looked
// at further; with a token nothing is, before TLS has seen a member. What is
// refused is closed, and leaves nothing behind.
func FuzzWelcome(f *testing.F) {
	greet := func(h Hello) []byte {
		var b bytes.Buffer
		_ = writeJSON(&b, magic, h)
		return b.Bytes()
	}
	even := Hello{Protocol: Protocol, ID: 2, Instance: 3, Cluster: 7, Name: "a", Address: "10.0.0.2:2380", Purpose: Raft, To: 0xb}
	odd, astray, newer := even, even, even
	odd.ID, astray.To, newer.Protocol = 3, 0xc, [2]int{9, 9}
	for _, h := range []Hello{even, odd, astray, newer, someone} {
		f.Add(greet(h), false)
		f.Add(greet(h), true)
	}
	f.Add([]byte("\x16\x03\x01\x00\x05hello"), false)
	f.Add([]byte("\x16\x03\x01\x00\x2f\x01\x00\x00\x2b\x03\x03"+string(make([]byte, 32))+"\x00\x00\x02\x13\x01\x01\x00\x00\x00"), true)
	f.Add([]byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"), true)
	f.Add(append(greet(even), "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"...), false)
	cfg := tokenTLS(f, oneToken)
	f.Fuzz(func(t *testing.T, data []byte, token bool) {
		l := newLobby(Config{})
		defer l.quit()
		if token {
			l.cfg.TLS = cfg
		}
		want, err := readHello(bytes.NewReader(data))
		whole := err == nil && !token
		c := &said{Reader: bytes.NewReader(data)}
		l.receive(c)
		to := l.handedOn()
		if !whole && (len(l.admitted) > 0 || to != "" || l.Stats().foreign() != 1) {
			t.Fatalf("no greeting: looked at %d, handed on to %q, %d counted as foreign", len(l.admitted), to, l.Stats().foreign())
		}
		if !whole && !token && c.heard.Len() > 0 && c.heard.Bytes()[0] != tlsAlert {
			t.Fatalf("a stranger is told %q", c.heard.Bytes())
		}
		if whole && len(l.admitted) > 0 && l.admitted[0] != want {
			t.Fatalf("looked at %+v, want %+v", l.admitted[0], want)
		}
		refused := whole && (len(l.admitted) == 0 || want.ID%2 == 1)
		if to != "" && refused {
			t.Fatalf("%+v is refused, and handed on to %q", want, to)
		}
		if (to == "") != c.shut || c.shut && len(l.open) > 0 || !c.shut && len(l.open) != 1 {
			t.Fatalf("handed on to %q, closed %v, %d open", to, c.shut, len(l.open))
		}
		if refused && len(l.links) > 0 {
			t.Fatalf("%+v is refused, and counted as a member", want)
		}
		if n := len(l.Notices()); n > 1 {
			t.Fatalf("%d notices of one connection", n)
		}
	})
}
