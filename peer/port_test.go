package peer

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/emptypb"
)

// Whoever is not wanted hears why, and both sides say so once, however often
// it tries; not at all where it only came a moment too early.
func TestRefusals(t *testing.T) {
	for _, code := range []Code{OtherCluster, Removed, Recovered, Copy} {
		t.Run(string(code), func(t *testing.T) {
			w := newTown(t)
			b := w.open(0xb, func(c *Config) {
				c.Admit = func(Hello) *Refusal { return &Refusal{code, "because of " + string(code)} }
			})
			a := w.open(0xa)
			for range 3 {
				_, err := a.Who(t.Context(), b.addr())
				var r *Refusal
				if !errors.As(err, &r) || r.Code != code || r.Text != "because of "+string(code) {
					t.Errorf("got %v, want a refusal with %s", err, code)
				}
				if r := <-a.heard; r.Code != code {
					t.Errorf("heard of %s, want %s", r.Code, code)
				}
			}
			want := 1
			if code == NoMember {
				want = 0
			}
			if n := a.log.lines(`msg="refused by a member" member=b`); n != want {
				t.Errorf("the refused says so %d times, want %d:\n%s", n, want, a.log)
			}
			until(t, "all to be counted", func() bool { return b.Stats().Refused == 3 })
			if n := b.log.lines(`msg="refused a member" member=a`); n != want {
				t.Errorf("who refuses says so %d times, want %d:\n%s", n, want, b.log)
			}
			if n := b.Notices(); len(n) != want || want > 0 && !strings.Contains(n[0].Text, "because of "+string(code)) {
				t.Errorf("notices %v, want one with the reason", n)
			}
		})
	}
}

// Whoever comes a moment too early is refused, and that is no news.
func TestTooEarly(t *testing.T) {
	w := newTown(t)
	b := w.open(0xb, func(c *Config) { c.Admit = func(Hello) *Refusal { return &Refusal{NoMember, "in no cluster yet"} } })
	a := w.open(0xa)
	_, err := a.Who(t.Context(), b.addr())
	var r *Refusal
	if !errors.As(err, &r) || r.Code != NoMember {
		t.Errorf("got %v, want a refusal with %s", err, NoMember)
	}
	_ = b.Close() // and so the greeting has ended there, too
	if a.log.String() != "" || b.log.String() != "" || b.Stats().Refused != 0 {
		t.Errorf("it is told of:\n%s%s", a.log, b.log)
	}
}

// Members without a protocol in common are told which of them is older, before
// anything else is looked at.
func TestOtherProtocol(t *testing.T) {
	w := newTown(t)
	b := w.open(0xb, func(c *Config) {
		c.Admit = func(Hello) *Refusal { t.Error("looked at"); return nil }
	})
	a := w.open(0xa, as(Hello{Protocol: [2]int{2, 3}, ID: 0xa}))
	_, err := a.Who(t.Context(), b.addr())
	var r *Refusal
	if !errors.As(err, &r) || r.Code != OtherProtocol || !strings.Contains(r.Text, "protocols 2 to 3") {
		t.Errorf("got %v, want a refusal with %s", err, OtherProtocol)
	}
}

// Where another member lives now, one is not taken for the one that was meant.
func TestOtherMember(t *testing.T) {
	w := newTown(t)
	a, b := w.open(0xa), w.open(0xb)
	w.moved(0xc, b.addr())
	_, err := a.Stream().Dial("c", deadline)
	var r *Refusal
	if !errors.As(err, &r) || r.Code != OtherMember || r.Text != "this is member b, not c" {
		t.Errorf("got %v, want a refusal with %s", err, OtherMember)
	}
	if a.log.lines("refused") != 0 {
		t.Errorf("an address that has changed hands is no news:\n%s", a.log)
	}
	if _, err := a.instance(0xc); err == nil || !strings.Contains(err.Error(), "this is member b") {
		t.Errorf("call: got %v, want that this is member b", err)
	}
}

// A port that does not look whom the caller wants is not believed either.
func TestOtherMemberThatSaysYes(t *testing.T) {
	w := newTown(t)
	a := w.open(0xa)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	w.moved(0xb, l.Addr().String())
	done := make(chan error, 1)
	go func() {
		c, err := l.Accept()
		if err == nil {
			_, err = readHello(c)
			err = errors.Join(err, writeJSON(c, "", Answer{Hello: Hello{ID: 0xc}}), c.Close())
		}
		done <- err
	}()
	if _, err := a.Stream().Dial("b", deadline); err == nil || !strings.Contains(err.Error(), "this is member c, not b") {
		t.Errorf("got %v, want that this is member c", err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// Whatever the two tokens are, if they differ both sides say what is wrong.
func TestTokens(t *testing.T) {
	for _, c := range []struct{ caller, port, callerSays, portSays string }{
		{oneToken, oneToken, "", ""},
		{"", "", "", ""},
		{oneToken, another, "has another token", "has another token"},
		{another, oneToken, "has another token", "has another token"},
		{"", oneToken, "it speaks TLS, and this member has no token", "speaks without TLS"},
		{oneToken, "", "has another token, or none", "speaks TLS"},
	} {
		t.Run(fmt.Sprintf("%.2s at %.2s", c.caller, c.port), func(t *testing.T) {
			w := newTown(t)
			a, b := w.open(0xa, withToken(t, c.caller)), w.open(0xb, withToken(t, c.port))
			for range 2 {
				_, err := a.Who(t.Context(), b.addr())
				if (err == nil) != (c.callerSays == "") || err != nil && !strings.Contains(err.Error(), c.callerSays) {
					t.Errorf("the caller got %v, want %q", err, c.callerSays)
				}
				if errors.Is(err, ErrOtherToken) != (c.callerSays != "") {
					t.Errorf("the caller got %v; is that ErrOtherToken?", err)
				}
			}
			if c.portSays == "" {
				if s := b.Stats(); s.foreign() != 0 || s.Sent == 0 || s.Received == 0 {
					t.Errorf("stats %+v, want none foreign, and bytes both ways", s)
				}
				return
			}
			until(t, "all to be counted", func() bool { return b.Stats().foreign() == 2 })
			until(t, "the port to say "+c.portSays, func() bool { return b.log.lines(c.portSays) > 0 }) // after it has counted
			if n := b.log.lines(c.portSays); n != 1 {
				t.Errorf("the port says %q %d times, want once:\n%s", c.portSays, n, b.log)
			}
		})
	}
}

// What is no greeting is closed, counted, and never looked at further.
func TestGarbage(t *testing.T) {
	for name, token := range map[string]string{"plain": "", "with a token": oneToken} {
		t.Run(name, func(t *testing.T) {
			w := newTown(t)
			h := w.open(0xb, withToken(t, token), func(c *Config) {
				c.Admit = func(Hello) *Refusal { t.Error("looked at"); return nil }
			})
			garbage := []string{
				"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", strings.Repeat("\x00", 100000),
				magic + "\xff\xff\xff\xff" + strings.Repeat("{", 100000), magic + "\x00\x00\x00\x02{{", "\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00",
			}
			for _, g := range garbage {
				c := stranger(t, h.addr())
				_, _ = c.Write([]byte(g))
				// An alert may come from TLS, then the end.
				if _, err := io.ReadAll(c); err != nil && isTimeout(err) {
					t.Errorf("%.20q: the connection stays open", g)
				}
			}
			until(t, "all to be counted", func() bool { return h.Stats().foreign() == int64(len(garbage)) })
			until(t, "the port to say so", func() bool { return h.log.lines("was closed") > 0 }) // after it has counted
			if n := h.log.lines("was closed"); n != 1 {
				t.Errorf("one host's garbage is told of %d times, want once:\n%s", n, h.log)
			}
		})
	}
}

// Connections that say nothing are closed after a while; so are raft streams
// that nobody takes.
func TestSilence(t *testing.T) {
	t.Parallel()
	w := newTown(t)
	plain, secret := w.open(0xa), w.open(0xb, withToken(t, oneToken))
	untaken, _, err := w.open(0xc).dial(t.Context(), Raft, 0xa, []string{plain.addr()})
	if err != nil {
		t.Fatal(err)
	}
	idle := []net.Conn{untaken}
	for range 100 {
		idle = append(idle, stranger(t, plain.addr()), stranger(t, secret.addr()))
	}
	for _, c := range idle {
		if _, err := c.Read(make([]byte, 1)); err == nil || isTimeout(err) {
			t.Errorf("silence was answered with %v, want the end", err)
		}
	}
	for _, h := range []*host{plain, secret} {
		until(t, "all to be counted", func() bool { return h.Stats().foreign() >= 100 })
		if n := h.Stats().Foreign[noGreeting]; n != 100 {
			t.Errorf("%d foreign connections, want 100: who greeted is none", n)
		}
	}
}

// Close ends what is idle, half greeted, calling and streaming, on both ends.
func TestCloseWithIdleConnections(t *testing.T) {
	w := newTown(t)
	h := w.open(0xa, withToken(t, oneToken))
	var idle []net.Conn
	for i := range 50 {
		c := stranger(t, h.addr())
		if i%2 == 0 {
			_, _ = c.Write([]byte("\x16\x03\x01\x02"))
		}
		idle = append(idle, c)
	}
	until(t, "all to be accepted", func() bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		return len(h.open) == len(idle)
	})
	if err := errors.Join(h.Close(), h.Close()); err != nil {
		t.Fatal(err)
	}
	for _, c := range idle {
		if _, err := io.ReadAll(c); err != nil && isTimeout(err) {
			t.Error("a connection stays open")
		}
	}
}

// Close waits for the calls under way: what they use is closed next.
func TestCloseWaitsForCalls(t *testing.T) {
	w := newTown(t)
	a, b := w.open(0xa), w.open(0xb)
	failed := make(chan error, 1)
	go func() {
		failed <- a.Invoke(context.Background(), 0xb, block, new(emptypb.Empty), new(emptypb.Empty))
	}()
	<-b.busy
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-b.left:
	default:
		t.Error("a call is still under way after Close")
	}
	if err := <-failed; err == nil {
		t.Error("the caller got no error")
	}
}

// Everything may be in use when a port is closed, and nothing hangs.
func TestCloseInUse(t *testing.T) {
	w := newTown(t)
	a, b := w.open(0xa, withToken(t, oneToken)), w.open(0xb, withToken(t, oneToken))
	use := []func() error{
		func() error { _, err := a.instance(0xb); return err },
		func() error { _, err := a.Who(t.Context(), b.addr()); return err },
		func() error {
			_, err := a.AskAt(t.Context(), b.addr(), askWho, new(emptypb.Empty), new(emptypb.Empty))
			return err
		},
		func() error {
			c, err := a.Stream().Dial("b", deadline)
			if err != nil {
				return err
			}
			_, err = c.Write([]byte("hello"))
			return errors.Join(err, c.Close())
		},
		func() error { a.Moved(0xb); a.Forget(0xb); a.Stats(); return nil },
		func() error {
			c, err := b.Stream().Accept()
			if err != nil {
				return err
			}
			_, _ = io.ReadAll(c)
			return c.Close()
		},
	}
	var wg sync.WaitGroup
	stop := make(chan struct{})
	var begun sync.WaitGroup
	for _, f := range use {
		begun.Add(1)
		var once sync.Once
		wg.Go(func() {
			for {
				_ = f()
				once.Do(begun.Done)
				select {
				case <-stop:
					return
				default:
				}
			}
		})
	}
	begun.Wait()
	var both sync.WaitGroup
	both.Go(func() { _ = a.Close() })
	both.Go(func() { _ = b.Close() })
	both.Wait()
	close(stop)
	wg.Wait()
	for _, err := range []error{use[0](), use[1](), use[2](), use[3](), use[5]()} {
		if err == nil {
			t.Error("a closed port is of use")
		}
	}
}

// A raft stream carries bytes both ways, and its end is heard of.
func TestStream(t *testing.T) {
	w := newTown(t)
	a, b := w.open(0xa, withToken(t, oneToken)), w.open(0xb, withToken(t, oneToken))
	out, err := a.Stream().Dial("b", deadline)
	if err != nil {
		t.Fatal(err)
	}
	in, err := b.Stream().Accept()
	if err != nil {
		t.Fatal(err)
	}
	for _, ends := range [][2]net.Conn{{out, in}, {in, out}} {
		if _, err := ends[0].Write([]byte("vote")); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, 4)
		if _, err := io.ReadFull(ends[1], got); err != nil || string(got) != "vote" {
			t.Errorf("got %q, %v", got, err)
		}
	}
	if err := in.SetReadDeadline(time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	if _, err := in.Read(make([]byte, 1)); !isTimeout(err) || len(b.gone) != 0 {
		t.Errorf("a deadline: %v, heard of %d ends; want a timeout, and none", err, len(b.gone))
	}
	if err := errors.Join(in.SetReadDeadline(time.Time{}), out.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := in.Read(make([]byte, 1)); err == nil {
		t.Error("read from a closed stream")
	}
	if id := <-b.gone; id != 0xa {
		t.Errorf("member %x is gone, want a", id)
	}
	if _, err := a.Stream().Dial("bob", deadline); err == nil || !strings.Contains(err.Error(), "not a member's ID") {
		t.Errorf("an address that is no ID: %v", err)
	}
	if _, err := a.Stream().Dial("c", deadline); err == nil || !strings.Contains(err.Error(), "no address of member c") {
		t.Errorf("a member that nobody knows: %v", err)
	}
	if _, encrypted := in.(*conn).Conn.(*tls.Conn); !encrypted {
		t.Error("the stream is not encrypted")
	}
}
