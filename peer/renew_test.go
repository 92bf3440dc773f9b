package peer

import (
	"testing"

	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"limpet/trust"
)

func token(t *testing.T, text string) trust.Token {
	t.Helper()
	token, err := trust.ParseToken(text)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// When a token is dropped, connections made with it end, and others stay; calls
// come over new ones.
func TestRecheck(t *testing.T) {
	w := newTown(t)
	old, newer := token(t, oneToken), token(t, another)
	rings := []*trust.Keyring{keyring(t, old), keyring(t, old)}
	a := w.open(0xa, func(c *Config) { c.TLS = rings[0].MemberTLS(0xa) })
	b := w.open(0xb, func(c *Config) { c.TLS = rings[1].MemberTLS(0xb) })
	in, err := b.dialled(a)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.instance(0xa); err != nil {
		t.Fatal(err)
	}
	for _, tokens := range [][]trust.Token{{old, newer}, {newer, old}} {
		for i, h := range []*host{a, b} {
			if err := rings[i].Set(tokens[0], tokens[1:]...); err != nil {
				t.Fatal(err)
			}
			h.Renew()
			h.Recheck()
		}
		if got, want := len(connections(a)), 1; got < want {
			t.Fatalf("with %v in use: %d connections are left, want the stream at least", tokens[0].Fingerprint(), got)
		}
	}
	fresh, err := b.dialled(a)
	if err != nil {
		t.Fatal(err)
	}
	if err := rings[0].Set(newer); err != nil {
		t.Fatal(err)
	}
	a.Recheck()
	if _, err := in.Read(make([]byte, 1)); err == nil {
		t.Error("the stream made with the dropped token is still open")
	}
	if open := connections(a); !open[fresh] {
		t.Error("the stream made with the new token was closed, too")
	}
	until(t, "calls to be made anew", func() bool { _, err := b.instance(0xa); return err == nil })
}

func connections(h *host) map[any]bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := make(map[any]bool)
	for c := range h.open {
		out[c] = true
	}
	return out
}

// A call under way ends on its connection; the next one takes another.
func TestRenewLetsCallsEnd(t *testing.T) {
	w := newTown(t)
	a := w.open(0xa)
	w.open(0xb)
	if _, err := a.instance(0xb); err != nil {
		t.Fatal(err)
	}
	idle := a.callers[0xb]
	k, err := a.hold(0xb)
	if err != nil {
		t.Fatal(err)
	}
	a.Renew()
	if err := k.conn.Invoke(t.Context(), memberWho, new(emptypb.Empty), new(wrapperspb.UInt64Value)); err != nil {
		t.Errorf("the call under way got %v", err)
	}
	if _, err := a.instance(0xb); err != nil || a.callers[0xb] == idle {
		t.Errorf("a later call got %v, on the old connection: %v", err, a.callers[0xb] == idle)
	}
	a.release(k)
	if err := k.conn.Invoke(t.Context(), memberWho, new(emptypb.Empty), new(wrapperspb.UInt64Value)); err == nil {
		t.Error("the old connection outlives its calls")
	}
}
