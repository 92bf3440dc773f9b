package peer

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
)

// greetPatience bounds TLS and the greeting, on both sides.
const greetPatience = 5 * time.Second

// Config wires a Port. All fields but TLS, CallTLS, Notices and Logger are
// needed.
type Config struct {
	Listeners []net.Listener // the port owns them
	TLS       *tls.Config    // for both directions; nil: plain
	// CallTLS, if set, is TLS for a call to host, a name or an address: members
	// have certificates that they were given, and those name hosts.
	CallTLS func(host string) *tls.Config
	// Self is what this member says of itself, now.
	Self func() Hello
	// Admit says why a caller is not wanted, nil if it is. Protocol and To have
	// been looked at.
	Admit func(Hello) *Refusal
	// Meet, if set, says why a member that was called is not wanted, nil if it is.
	Meet func(Hello) *Refusal
	// Where lists the addresses, host:port, at which a member may be found, the
	// likeliest first.
	Where func(id uint64) []string
	// Services adds the services of Call and Ask. The names of those that may be
	// asked by anybody with the token begin with AskPrefix.
	Services func(grpc.ServiceRegistrar)
	// Refused, if set, hears that another member does not want us.
	Refused func(*Refusal)
	// Gone, if set, hears that a raft stream of member id broke.
	Gone func(id uint64)
	// Notices takes what is said about connections that came to nothing; nil: the
	// port has its own.
	Notices *Notices
	Logger  *slog.Logger
}

// Stats counts since the start.
type Stats struct {
	Refused  int64               // greetings answered with a refusal; not those that came to the wrong member, or too early
	Foreign  [len(Reasons)]int64 // connections closed before a greeting, by Reasons
	Sent     int64               // bytes
	Received int64
}

// Port is a member's port for other members. Its methods may be called
// concurrently.
type Port struct {
	cfg   Config
	log   *slog.Logger
	grpc  *grpc.Server
	raft  chan net.Conn
	calls chan net.Conn
	ctx   context.Context // the port's lifetime
	quit  context.CancelFunc
	once  sync.Once
	wg    sync.WaitGroup

	refused, sent, received atomic.Int64
	foreign                 [len(Reasons)]atomic.Int64

	// mu guards the fields below.
	mu      sync.Mutex
	open    map[*conn]struct{} // all connections, both ways
	callers map[uint64]*kept
	links   map[uint64]*link // what is counted of members
	closed  bool
}

// Open starts to accept.
func Open(cfg Config) *Port {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Notices == nil {
		cfg.Notices = new(Notices)
	}
	p := &Port{
		cfg: cfg, log: cfg.Logger,
		raft: make(chan net.Conn), calls: make(chan net.Conn),
		open:    make(map[*conn]struct{}),
		callers: make(map[uint64]*kept), links: make(map[uint64]*link),
	}
	p.ctx, p.quit = context.WithCancel(context.Background())
	p.grpc = newServer(cfg.Services)
	for _, l := range cfg.Listeners {
		// Owner: Port; ends when Close closes l.
		p.wg.Go(func() { p.accept(l) })
	}
	// Owner: Port; ends when Close stops the server.
	p.wg.Go(func() { _ = p.grpc.Serve(&branch{p, p.calls}) })
	return p
}

// Close ends all connections, and waits for the calls that are being served.
// It is safe to call twice.
func (p *Port) Close() error {
	p.once.Do(func() {
		p.quit()
		for _, l := range p.cfg.Listeners {
			_ = l.Close()
		}
		p.mu.Lock()
		p.closed = true
		callers := p.callers
		p.callers = nil
		var open []*conn
		for c := range p.open {
			open = append(open, c)
		}
		p.mu.Unlock()
		for _, k := range callers {
			_ = k.conn.Close()
		}
		for _, c := range open {
			_ = c.Close()
		}
		p.grpc.Stop()
	})
	p.wg.Wait()
	return nil
}

// Addr is the address of the first listener.
func (p *Port) Addr() net.Addr { return p.cfg.Listeners[0].Addr() }

// Stats returns the counters.
func (p *Port) Stats() Stats {
	s := Stats{Refused: p.refused.Load(), Sent: p.sent.Load(), Received: p.received.Load()}
	for i := range p.foreign {
		s.Foreign[i] = p.foreign[i].Load()
	}
	return s
}

func (p *Port) accept(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			// Out of file descriptors, say: give others time to close theirs.
			select {
			case <-p.ctx.Done():
				return
			case <-time.After(50 * time.Millisecond):
			}
			continue
		}
		// Owner: Port; ends with the greeting, its deadline, or quit.
		p.wg.Go(func() { p.receive(c) })
	}
}

// receive greets a caller and hands the connection on.
func (p *Port) receive(raw net.Conn) {
	c := p.track(raw, 0, "")
	if c == nil {
		return
	}
	if err := p.welcome(c); err != nil {
		_ = c.Close()
		return
	}
	var to chan net.Conn
	switch c.who.Purpose {
	case Raft:
		to = p.raft
	case Call, Ask:
		to = p.calls
	default: // who only looks has its answer, and was let in without being judged
		_ = c.Close()
		return
	}
	// Raft may not run yet, and callers try again and again: what nobody takes
	// must not pile up.
	patience := time.NewTimer(greetPatience)
	defer patience.Stop()
	select {
	case to <- c:
	case <-patience.C:
		_ = c.Close()
	case <-p.ctx.Done():
		_ = c.Close()
	}
}

func (p *Port) welcome(c *conn) error {
	remote := c.RemoteAddr().String()
	_ = c.SetDeadline(time.Now().Add(greetPatience))
	hello, err := p.listen(c)
	if err != nil {
		p.say(hostOf(remote), "a connection to the peer port was closed", "remote", remote, "error", err)
		return err
	}
	answer := Answer{Hello: p.cfg.Self()}
	answer.Refused = p.judge(answer.Hello, hello)
	if err := writeJSON(c, "", answer); err != nil {
		return err
	}
	if r := answer.Refused; r != nil {
		if r.Code == OtherMember || r.Code == NoMember {
			return r // it looks for somebody else, or comes a moment too early
		}
		p.say(string(r.Code)+fmt.Sprint(hello.ID), "refused a member", "member", fmt.Sprintf("%x", hello.ID), "name", hello.Name,
			"cluster", fmt.Sprintf("%x", hello.Cluster), "remote", remote, "reason", r.Text)
		p.refused.Add(1)
		return r
	}
	p.mu.Lock()
	c.who = hello
	p.mu.Unlock()
	if hello.Purpose == Raft || hello.Purpose == Call {
		p.join(c, hello.ID)
	}
	return c.SetDeadline(time.Time{})
}

// listen hears who calls, and counts what is nobody. Who comes with TLS to a
// member without, or without to one with TLS, is told so by an alert of TLS,
// which both can read.
func (p *Port) listen(c *conn) (Hello, error) {
	raw := c.Conn
	var h Hello
	err, why := p.serveTLS(c), badHandshake
	if err == nil {
		h, err = readHello(c)
		why = badGreeting
	}
	if err == nil {
		return h, nil
	}
	p.foreign[reasonOf(err, why)].Add(1)
	if errors.Is(err, errToken) || errors.Is(err, errPlain) {
		alert(raw)
	}
	return h, p.trustError(err)
}

// alertPatience is how long the other side may take to read an alert.
const alertPatience = time.Second

// alert says, as TLS does, that there will be no handshake. It reads on until
// the other side has closed, or has had its time: closing with bytes unread
// would reset the connection, and the alert might be lost.
func alert(raw net.Conn) {
	_ = raw.SetDeadline(time.Now().Add(alertPatience))
	const fatal, handshakeFailure = 2, 40 // RFC 8446, section 6
	if _, err := raw.Write([]byte{tlsAlert, tlsMajor, 3, 0, 2, fatal, handshakeFailure}); err != nil {
		return
	}
	if t, ok := raw.(*net.TCPConn); ok && t.CloseWrite() == nil {
		_, _ = io.CopyN(io.Discard, raw, 64<<10)
	}
}

// hostOf is the address without the port: that is another one at each attempt.
func hostOf(remote string) string {
	host, _, err := net.SplitHostPort(remote)
	if err != nil {
		return remote
	}
	return host
}

func (p *Port) judge(self, caller Hello) *Refusal {
	if r := common(self.Protocol, caller.Protocol); r != nil {
		return r
	}
	if caller.To != 0 && caller.To != self.ID {
		return &Refusal{OtherMember, fmt.Sprintf("this is member %x, not %x", self.ID, caller.To)}
	}
	return p.cfg.Admit(caller)
}

// serveTLS does the handshake, if members speak TLS.
func (p *Port) serveTLS(c *conn) error {
	if p.cfg.TLS == nil {
		return nil
	}
	t := tls.Server(c.Conn, p.cfg.TLS)
	c.wrap(t)
	ctx, cancel := context.WithTimeout(p.ctx, greetPatience)
	defer cancel()
	err := t.HandshakeContext(ctx)
	var plain tls.RecordHeaderError
	if errors.As(err, &plain) && bytes.HasPrefix([]byte(magic), plain.RecordHeader[:]) {
		return errPlain
	}
	return err
}

// say logs a line about a remote, each at most once a minute.
func (p *Port) say(key, msg string, args ...any) {
	if p.cfg.Notices.Add(key, msg, args...) {
		p.log.Warn(msg, args...)
	}
}

// Notices lists what happened lately that an operator should know, the newest
// first.
func (p *Port) Notices() []Notice { return p.cfg.Notices.Recent() }

// track makes raw one of the open connections, to a member that we call if to
// is not 0, and what for; nil if the port is closed.
func (p *Port) track(raw net.Conn, to uint64, why Purpose) *conn {
	c := &conn{Conn: raw, port: p, to: to, calls: why == Call}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		_ = raw.Close()
		return nil
	}
	p.open[c] = struct{}{}
	return c
}

// Moved closes the connections with a member that is elsewhere now: what hangs
// on an address that nobody has any more would be noticed late.
func (p *Port) Moved(id uint64) {
	p.mu.Lock()
	var old []*conn
	for c := range p.open {
		if c.to == id || c.who.ID == id {
			old = append(old, c)
		}
	}
	k := p.callers[id]
	delete(p.callers, id) // it may be waiting to try the old address again
	p.mu.Unlock()
	if k != nil {
		_ = k.conn.Close()
	}
	for _, c := range old {
		_ = c.Close()
	}
}

// Renew has calls to other members take connections that are made anew, with
// what is shown now; those under way end on the old ones.
func (p *Port) Renew() {
	p.mu.Lock()
	var idle []*kept
	for id, k := range p.callers {
		delete(p.callers, id)
		if k.gone = true; k.calls == 0 {
			idle = append(idle, k)
		}
	}
	p.mu.Unlock()
	for _, k := range idle {
		_ = k.conn.Close()
	}
}

// Recheck closes the connections whose other end would not get through the
// handshake any more: it has shown what is not trusted now. Those of our own
// calls are Renew's: a call under way that was cut off would be a write of which
// nobody knows. It may wait for handshakes under way.
func (p *Port) Recheck() {
	if p.cfg.TLS == nil || p.cfg.TLS.VerifyConnection == nil {
		return
	}
	p.mu.Lock()
	streams := make(map[*conn]*tls.Conn)
	for c := range p.open {
		if t, ok := c.Conn.(*tls.Conn); ok && !c.calls {
			streams[c] = t
		}
	}
	p.mu.Unlock()
	for c, t := range streams {
		if s := t.ConnectionState(); p.cfg.TLS.VerifyConnection(s) != nil {
			_ = c.Close()
		}
	}
}

// conn is a connection with another member, counted. Others than its user only
// close it, and look at the fields under port.mu.
type conn struct {
	net.Conn
	port  *Port
	who   Hello  // the caller, on the receiving side, once it is welcome
	to    uint64 // the member called, on the calling side
	calls bool   // our calls go over it
	link  *link  // with a member; nil before the greeting, and with those that only ask
}

// wrap puts TLS around the connection.
func (c *conn) wrap(t *tls.Conn) {
	c.port.mu.Lock()
	c.Conn = t
	c.port.mu.Unlock()
}

// Read implements net.Conn.
func (c *conn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.port.received.Add(int64(n))
	c.link.read(n, err)
	if err != nil && c.who.Purpose == Raft && !isTimeout(err) && c.port.cfg.Gone != nil && c.port.ctx.Err() == nil {
		c.port.cfg.Gone(c.who.ID)
	}
	return n, err
}

// Write implements net.Conn.
func (c *conn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.port.sent.Add(int64(n))
	c.link.wrote(n, err)
	return n, err
}

// Close implements net.Conn.
func (c *conn) Close() error {
	c.port.mu.Lock()
	if _, open := c.port.open[c]; open && c.link != nil {
		if c.link.conns--; c.link.conns == 0 {
			c.link.lost++
		}
	}
	delete(c.port.open, c)
	stream := c.Conn
	c.port.mu.Unlock()
	return stream.Close()
}

func isTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}

// branch is one kind of incoming connections: a net.Listener.
type branch struct {
	port  *Port
	conns chan net.Conn
}

// Accept implements net.Listener.
func (b *branch) Accept() (net.Conn, error) {
	select {
	case c := <-b.conns:
		return c, nil
	case <-b.port.ctx.Done():
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener. The port is closed by whoever opened it.
func (b *branch) Close() error { return nil }

// Addr implements net.Listener.
func (b *branch) Addr() net.Addr { return b.port.Addr() }
