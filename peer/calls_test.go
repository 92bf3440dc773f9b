package peer

import (
	"context"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// Whoever came to ask may only ask; members may do both.
func TestWhoMayCall(t *testing.T) {
	w := newTown(t)
	a, b := w.open(0xa), w.open(0xb)
	ask := func(method string) error {
		_, err := a.AskAt(t.Context(), b.addr(), method, new(emptypb.Empty), new(wrapperspb.UInt64Value))
		return err
	}
	call := func(method string) error {
		return a.Invoke(t.Context(), 0xb, method, new(emptypb.Empty), new(wrapperspb.UInt64Value))
	}
	for _, c := range []struct {
		how    string
		do     func(string) error
		method string
		want   codes.Code
	}{
		{"ask", ask, askWho, codes.OK},
		{"ask", ask, memberWho, codes.PermissionDenied},
		{"ask", ask, block, codes.PermissionDenied},
		{"ask", ask, AskPrefix + "Nothing", codes.Unimplemented},
		{"call", call, askWho, codes.OK},
		{"call", call, memberWho, codes.OK},
		{"call", call, "/test.Member/Nothing", codes.Unimplemented},
	} {
		if err := c.do(c.method); status.Code(err) != c.want {
			t.Errorf("%s %s: got %v, want %v", c.how, c.method, err, c.want)
		}
	}
	if len(b.busy) != 0 {
		t.Error("a method for members has run")
	}
}

// A service knows who calls it, as the greeting said.
func TestFrom(t *testing.T) {
	if _, ok := From(context.Background()); ok {
		t.Error("a context without a call has a caller")
	}
	w := newTown(t)
	came := make(chan Hello, 1)
	a := w.open(0xa)
	w.open(0xb, func(c *Config) { c.Admit = func(h Hello) *Refusal { came <- h; return nil } })
	if _, err := a.instance(0xb); err != nil {
		t.Fatal(err)
	}
	want := a.hello
	want.Purpose, want.To = Call, 0xb
	if h := <-came; h != want {
		t.Errorf("admitted %+v, want %+v", h, want)
	}
	c := &conn{who: want}
	_, info, err := greeted{insecure.NewCredentials()}.Clone().ServerHandshake(c)
	if err != nil || info.(caller).Hello != want || info.AuthType() != "limpet" {
		t.Errorf("got %+v, %v; want %+v", info, err, want)
	}
	if _, _, err := (greeted{insecure.NewCredentials()}).ServerHandshake(c.Conn); err == nil {
		t.Error("a connection without a greeting is served")
	}
}
