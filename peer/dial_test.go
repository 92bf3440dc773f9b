package peer

import (
	"context"
	"errors"
	"net"
	"testing"

	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// silent is an address where connections are taken, and nobody says a word.
func silent(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l.Addr().String()
}

// nobody is an address where nobody listens.
func nobody(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

// Of several addresses the one is taken where the meant member is; those that
// are silent keep nobody waiting: greetPatience is for all of them together.
func TestDialSeveralAddresses(t *testing.T) {
	w := newTown(t)
	a, b, c := w.open(0xa), w.open(0xb), w.open(0xc)
	for name, addrs := range map[string][]string{
		"only one":        {b.addr()},
		"nobody first":    {nobody(t), b.addr()},
		"another first":   {c.addr(), b.addr()},
		"silent first":    {silent(t), b.addr()},
		"all three first": {silent(t), nobody(t), c.addr(), silent(t), b.addr()},
		"silent last":     {b.addr(), silent(t)},
		"twice":           {b.addr(), b.addr()},
	} {
		conn, answer, err := a.dial(t.Context(), Call, 0xb, addrs)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if answer.ID != 0xb || conn.RemoteAddr().String() != b.addr() {
			t.Errorf("%s: got member %x at %s, want b at %s", name, answer.ID, conn.RemoteAddr(), b.addr())
		}
		_ = conn.Close()
		a.mu.Lock()
		if len(a.open) != 0 {
			t.Errorf("%s: %d connections are left", name, len(a.open))
		}
		a.mu.Unlock()
	}
}

// What another member said tells more than what the network did.
func TestDialTellsTheReason(t *testing.T) {
	w := newTown(t)
	a, c := w.open(0xa), w.open(0xc)
	b := w.open(0xb, func(c *Config) { c.Admit = func(Hello) *Refusal { return &Refusal{Removed, "removed"} } })
	_, _, err := a.dial(t.Context(), Call, 0xb, []string{nobody(t), c.addr(), b.addr()})
	var r *Refusal
	if !errors.As(err, &r) || r.Code != Removed {
		t.Errorf("got %v, want that it was removed", err)
	}
	if _, _, err = a.dial(t.Context(), Call, 0xb, []string{nobody(t), nobody(t)}); err == nil || errors.As(err, &r) {
		t.Errorf("got %v, want what the network said", err)
	}
}

// A greeting ends with its context, and with the port, not with its patience.
func TestDialEnds(t *testing.T) {
	for name, token := range map[string]string{"plain": "", "with a token": oneToken} {
		t.Run(name, func(t *testing.T) {
			w := newTown(t)
			a := w.open(0xa, withToken(t, token))
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 2)
			begin := func(ctx context.Context) {
				go func() {
					_, err := a.Who(ctx, silent(t))
					done <- err
				}()
				until(t, "the greeting to begin", func() bool {
					a.mu.Lock()
					defer a.mu.Unlock()
					return len(a.open) == 1
				})
			}
			begin(ctx)
			cancel()
			if err := <-done; !errors.Is(err, context.Canceled) {
				t.Errorf("canceled: got %v, want %v", err, context.Canceled)
			}
			begin(t.Context())
			_ = a.Close()
			if err := <-done; err == nil || isTimeout(err) {
				t.Errorf("closed: got %v, want an error, and no timeout", err)
			}
		})
	}
}

// Moved ends the connections with a member; the next call finds it where it is
// now. Without Moved the old connection is kept as long as it holds.
func TestMoved(t *testing.T) {
	w := newTown(t)
	a, old := w.open(0xa), w.open(0xb)
	stream, err := a.Stream().Dial("b", deadline)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := a.instance(0xb); n != 1 || err != nil {
		t.Fatalf("process %d, %v; want 1", n, err)
	}
	hello := old.hello
	hello.Instance = 2
	w.open(0xb, as(hello))
	if n, err := a.instance(0xb); n != 1 || err != nil {
		t.Errorf("a connection that holds: process %d, %v; want 1", n, err)
	}
	a.Moved(0xb)
	if _, err := stream.Read(make([]byte, 1)); err == nil {
		t.Error("the stream to the old address is still open")
	}
	until(t, "the call to reach the new address", func() bool { n, _ := a.instance(0xb); return n == 2 })
	// The other way round, by who called.
	in, err := old.dialled(a)
	if err != nil {
		t.Fatal(err)
	}
	a.Moved(0xb)
	if _, err := in.Read(make([]byte, 1)); err == nil {
		t.Error("the stream from the old address is still open")
	}
}

// dialled opens a stream to a and returns a's end of it.
func (h *host) dialled(a *host) (net.Conn, error) {
	if _, err := h.Stream().Dial("a", deadline); err != nil {
		return nil, err
	}
	return a.Stream().Accept()
}

// A member that stops and comes back elsewhere is found there.
func TestRestartElsewhere(t *testing.T) {
	w := newTown(t)
	a, b := w.open(0xa), w.open(0xb)
	if _, err := a.instance(0xb); err != nil {
		t.Fatal(err)
	}
	_ = b.Close()
	if n, err := a.instance(0xb); err == nil {
		t.Errorf("process %d answers, want nobody", n)
	}
	hello := b.hello
	hello.Instance = 2
	w.open(0xb, as(hello))
	until(t, "the new process to answer", func() bool { n, _ := a.instance(0xb); return n == 2 })
	a.Forget(0xb)
	a.Forget(0xb)
	if n, err := a.instance(0xb); n != 2 {
		t.Errorf("once forgotten: process %d, %v; want 2", n, err)
	}
}

// Questions go to whoever is there, and its answer to the greeting comes along.
func TestAskAt(t *testing.T) {
	w := newTown(t)
	a, b := w.open(0xa, withToken(t, oneToken)), w.open(0xb, withToken(t, oneToken))
	resp := new(wrapperspb.UInt64Value)
	answer, err := a.AskAt(t.Context(), b.addr(), askWho, new(emptypb.Empty), resp)
	if err != nil || answer.Hello != b.hello || resp.Value != b.hello.Instance {
		t.Errorf("got %+v, %v, %v; want %+v", answer, resp, err, b.hello)
	}
	if _, err := a.AskAt(t.Context(), nobody(t), askWho, new(emptypb.Empty), resp); err == nil {
		t.Error("nobody has answered")
	}
	// The connection was for this one question.
	for _, h := range []*host{a, b} {
		until(t, "the connection to be closed", func() bool {
			h.mu.Lock()
			defer h.mu.Unlock()
			return len(h.open) == 0
		})
	}
}
