package peer

import (
	"bytes"
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"limpet/trust"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// deadline is for conditions that hold soon on any machine.
const deadline = 20 * time.Second

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(deadline); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("in vain: %s", what)
		}
	}
}

// town knows where everybody lives.
type town struct {
	t  *testing.T
	mu sync.Mutex // guards at
	at map[uint64][]string
}

func newTown(t *testing.T) *town { return &town{t: t, at: make(map[uint64][]string)} }

func (w *town) where(id uint64) []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.at[id]
}

func (w *town) moved(id uint64, addrs ...string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.at[id] = addrs
}

// host is a member with a port.
type host struct {
	*Port
	hello Hello
	log   *logbook
	heard chan *Refusal // what others said of it
	gone  chan uint64
	busy  chan struct{} // a call of Block has begun
	left  chan struct{} // and has ended
}

// The methods that hosts serve. Who answers the instance of who answers, and
// Block blocks.
const (
	askWho    = AskPrefix + "Who"
	memberWho = "/test.Member/Who"
	block     = "/test.Member/Block"
)

// open opens the port of member id at a free address of 127.0.0.1.
func (w *town) open(id uint64, set ...func(*Config)) *host {
	w.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		w.t.Fatal(err)
	}
	h := &host{
		hello: Hello{Protocol: Protocol, ID: id, Instance: 1, Cluster: 7, Name: "m", Address: l.Addr().String()},
		log:   new(logbook), heard: make(chan *Refusal, 100), gone: make(chan uint64, 100),
		busy: make(chan struct{}, 100), left: make(chan struct{}, 100),
	}
	cfg := Config{
		Listeners: []net.Listener{l}, Where: w.where, Services: h.services,
		Self: func() Hello { return h.hello }, Admit: func(Hello) *Refusal { return nil },
		Refused: func(r *Refusal) { h.heard <- r }, Gone: func(id uint64) { h.gone <- id },
		Logger: slog.New(slog.NewTextHandler(h.log, nil)),
	}
	for _, s := range set {
		s(&cfg)
	}
	h.Port = Open(cfg)
	w.t.Cleanup(func() { _ = h.Close() })
	w.moved(id, h.addr())
	return h
}

func (h *host) addr() string { return h.Addr().String() }

// as gives the host another hello.
func as(hello Hello) func(*Config) {
	return func(c *Config) { c.Self = func() Hello { return hello } }
}

func withToken(t *testing.T, token string) func(*Config) {
	return func(c *Config) { c.TLS = tokenTLS(t, token) }
}

// tokenTLS is nil for no token.
func tokenTLS(t testing.TB, text string) *tls.Config {
	t.Helper()
	if text == "" {
		return nil
	}
	token, err := trust.ParseToken(text)
	if err != nil {
		t.Fatal(err)
	}
	return keyring(t, token).MemberTLS(1)
}

func keyring(t testing.TB, inUse trust.Token, others ...trust.Token) *trust.Keyring {
	t.Helper()
	k, err := trust.NewKeyring(inUse, others...)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

const (
	oneToken = "000102030405060708090a0b0c0d0e0f"
	another  = "ff0102030405060708090a0b0c0d0e0f"
)

func (h *host) services(r grpc.ServiceRegistrar) {
	who := func(ctx context.Context, _ *emptypb.Empty) (*wrapperspb.UInt64Value, error) {
		return wrapperspb.UInt64(h.cfg.Self().Instance), nil
	}
	wait := func(ctx context.Context, _ *emptypb.Empty) (*emptypb.Empty, error) {
		h.busy <- struct{}{}
		<-ctx.Done()
		h.left <- struct{}{}
		return nil, ctx.Err()
	}
	r.RegisterService(&grpc.ServiceDesc{ServiceName: "limpet.Ask", HandlerType: (*any)(nil), Methods: []grpc.MethodDesc{
		Unary("limpet.Ask", "Who", who),
	}}, h)
	r.RegisterService(&grpc.ServiceDesc{ServiceName: "test.Member", HandlerType: (*any)(nil), Methods: []grpc.MethodDesc{
		Unary("test.Member", "Who", who), Unary("test.Member", "Block", wait),
	}}, h)
}

// instance calls a member and returns which process it is, 0 with an error.
func (h *host) instance(id uint64) (uint64, error) {
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	resp := new(wrapperspb.UInt64Value)
	err := h.Invoke(ctx, id, memberWho, new(emptypb.Empty), resp)
	return resp.Value, err
}

// logbook is a log to look into.
type logbook struct {
	mu  sync.Mutex // guards buf
	buf bytes.Buffer
}

// Write implements io.Writer.
func (l *logbook) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

// lines counts the lines that hold text.
func (l *logbook) lines(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for line := range strings.Lines(l.buf.String()) {
		if strings.Contains(line, text) {
			n++
		}
	}
	return n
}

func (l *logbook) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// foreign is how many connections came to nothing, whatever the reason.
func (s Stats) foreign() (n int64) {
	for _, f := range s.Foreign {
		n += f
	}
	return n
}

// stranger is a raw connection to a port.
func stranger(t *testing.T, addr string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if err := c.SetDeadline(time.Now().Add(deadline)); err != nil {
		t.Fatal(err)
	}
	return c
}
