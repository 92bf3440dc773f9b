package server

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/credentials"

	"limpet/api/ops"
)

// listener is a port, or a socket file, and what is spoken there.
type listener struct {
	net.Listener
	plain, secure bool // without TLS, with it; both on one port is possible, as in etcd
}

// listenAll opens a listener for each URL; on error none stays open. reuse: other
// processes may listen on the same ports.
func listenAll(flag string, urls []string, reuse bool) ([]*listener, error) {
	var out []*listener
	seen := make(map[string]*listener)
	for _, s := range urls {
		u, err := url.Parse(s)
		if err != nil {
			return nil, err // Validate has parsed it before
		}
		network, address := "tcp", u.Host
		if isUnix(u) {
			network, address = "unix", socketFile(u)
		}
		l := seen[network+address]
		if l == nil {
			if l, err = listen(flag, network, address, reuse); err != nil {
				closeAll(out)
				return nil, err
			}
			seen[network+address] = l
			out = append(out, l)
		}
		secure := firstSecure([]string{s}) != ""
		l.secure, l.plain = l.secure || secure, l.plain || !secure
	}
	return out, nil
}

func listen(flag, network, address string, reuse bool) (_ *listener, err error) {
	var l net.Listener
	if network == "unix" {
		l, err = listenUnix(address)
	} else {
		var how net.ListenConfig
		if reuse {
			how.Control = sharePort
		}
		l, err = how.Listen(context.Background(), network, address)
		if unknown := new(net.DNSError); errors.As(err, &unknown) && strings.HasPrefix(address, "localhost:") {
			// A machine without /etc/hosts and DNS; the name is what it is everywhere (RFC 6761).
			l, err = how.Listen(context.Background(), network, "127.0.0.1"+strings.TrimPrefix(address, "localhost"))
		}
	}
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("--%s: %s is in use by another program; stop it or choose another port", flag, address)
	case err != nil:
		return nil, fmt.Errorf("--%s: %s cannot be listened on: %w", flag, address, err)
	}
	return &listener{Listener: l}, nil
}

// sharePort is net.ListenConfig's Control with SO_REUSEPORT.
func sharePort(_, _ string, c syscall.RawConn) error {
	var set error
	err := c.Control(func(fd uintptr) { set = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1) })
	return errors.Join(err, set)
}

func closeAll[L net.Listener](ls []L) {
	for _, l := range ls {
		_ = l.Close()
	}
}

// helloTimeout is how long a new connection may take until it has said which
// protocol it speaks, TLS included.
const helloTimeout = 30 * time.Second

// tlsHandshake is the first byte of TLS (RFC 8446, section 5.1), and of nothing
// that HTTP says.
const tlsHandshake = 22

// preface begins every HTTP/2 connection, and no HTTP/1 request.
var preface = []byte("PRI * HTTP/2.0")

// splitter hands the connections of listeners to gRPC or HTTP/1 by their first
// bytes: both live on one port, as in etcd. TLS ends here.
type splitter struct {
	grpc, http *branch
	cfg        splitterConfig
	quit       chan struct{}
	once       sync.Once
	ls         []*listener
	wg         sync.WaitGroup

	// mu guards the rest.
	mu      sync.Mutex
	silent  map[net.Conn]struct{}          // connections that have not shown what they speak
	secured map[net.Conn]*x509.Certificate // those whose clients showed a certificate
}

type splitterConfig struct {
	traffic *ops.Traffic // counts what gRPC connections carry
	tls     *tls.Config  // of listeners that are secure
	// rejected hears of clients with which TLS came to nothing; many at a time.
	rejected func(remote net.Addr, err error)
}

// newSplitter starts to accept on ls, of which there is at least one.
func newSplitter(ls []*listener, cfg splitterConfig) *splitter {
	s := &splitter{cfg: cfg, quit: make(chan struct{}), ls: ls, silent: make(map[net.Conn]struct{}), secured: make(map[net.Conn]*x509.Certificate)}
	s.grpc, s.http = newBranch(s, ls[0].Addr()), newBranch(s, ls[0].Addr())
	for _, l := range ls {
		// Owner: the splitter; ends when close closes l.
		s.wg.Go(func() { s.accept(l) })
	}
	return s
}

func (s *splitter) close() {
	s.once.Do(func() {
		close(s.quit)
		closeAll(s.ls)
		s.mu.Lock()
		for c := range s.silent {
			_ = c.Close()
		}
		s.mu.Unlock()
	})
	s.wg.Wait()
}

// hush notes that c is silent, or no longer; false if the splitter is closing.
func (s *splitter) hush(c net.Conn, silent bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !silent {
		delete(s.silent, c)
		return true
	}
	select {
	case <-s.quit:
		return false
	default:
	}
	s.silent[c] = struct{}{}
	return true
}

func (s *splitter) accept(l *listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return
			}
			// Out of file descriptors, say: give others time to close theirs.
			select {
			case <-s.quit:
				return
			case <-time.After(50 * time.Millisecond):
			}
			continue
		}
		// Owner: the splitter; ends with the first bytes, the deadline or quit.
		s.wg.Go(func() { s.sort(c, l) })
	}
}

// sort reads until it is clear which protocol c speaks.
func (s *splitter) sort(c net.Conn, l *listener) {
	if !s.hush(c, true) {
		_ = c.Close()
		return
	}
	defer s.hush(c, false)
	_ = c.SetDeadline(time.Now().Add(helloTimeout))
	clear, state, err := s.endTLS(c, l)
	if err != nil {
		_ = c.Close()
		s.cfg.rejected(c.RemoteAddr(), err)
		return
	}
	forget := s.know(c, state)
	head := make([]byte, 0, len(preface))
	for len(head) < len(preface) && bytes.HasPrefix(preface, head) {
		n, err := clear.Read(head[len(head):cap(head)])
		head = head[:len(head)+n]
		if err != nil {
			forget()
			_ = c.Close()
			return
		}
	}
	_ = c.SetDeadline(time.Time{})
	to, conn := s.http, net.Conn(&prefixConn{Conn: clear, prefix: head})
	if bytes.HasPrefix(head, preface) {
		to, conn = s.grpc, &countedConn{prefixConn{Conn: clear, prefix: head}, s.cfg.traffic}
	}
	if state != nil {
		conn = &securedConn{conn, *state, forget}
	}
	select {
	case to.conns <- conn:
	case <-s.quit:
		_ = conn.Close()
	case <-to.quit:
		_ = conn.Close()
	}
}

// know notes which certificate the client of c showed, if it showed one; forget
// takes that back.
func (s *splitter) know(c net.Conn, state *tls.ConnectionState) (forget func()) {
	if state == nil || len(state.VerifiedChains) == 0 {
		return func() {}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.secured[c] = state.PeerCertificates[0]
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.secured, c)
	}
}

// recheck closes the connections of clients that showed a certificate which is
// good no more.
func (s *splitter) recheck(good func(*x509.Certificate) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c, shown := range s.secured {
		if !good(shown) {
			_ = c.Close()
		}
	}
}

// endTLS does the handshake, where l asks for one; without there is no state.
// The deadline of c bounds it.
func (s *splitter) endTLS(c net.Conn, l *listener) (net.Conn, *tls.ConnectionState, error) {
	if !l.secure {
		return c, nil, nil
	}
	if l.plain {
		first := make([]byte, 1)
		if _, err := io.ReadFull(c, first); err != nil {
			return nil, nil, err
		}
		c = &prefixConn{Conn: c, prefix: first}
		if first[0] != tlsHandshake {
			return c, nil, nil
		}
	}
	t := tls.Server(c, s.cfg.tls)
	if err := t.Handshake(); err != nil {
		return nil, nil, err
	}
	state := t.ConnectionState()
	return t, &state, nil
}

// branch is one side of a splitter: a net.Listener.
type branch struct {
	conns chan net.Conn
	addr  net.Addr
	quit  chan struct{}
	once  sync.Once
	split *splitter
}

func newBranch(s *splitter, addr net.Addr) *branch {
	return &branch{conns: make(chan net.Conn), addr: addr, quit: make(chan struct{}), split: s}
}

// Accept implements net.Listener.
func (b *branch) Accept() (net.Conn, error) {
	select {
	case c := <-b.conns:
		return c, nil
	case <-b.quit:
		return nil, net.ErrClosed
	case <-b.split.quit:
		return nil, net.ErrClosed
	}
}

// dial connects to whoever accepts, within the process.
func (b *branch) dial(ctx context.Context) (net.Conn, error) {
	ours, theirs := net.Pipe()
	select {
	case b.conns <- theirs:
		return ours, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-b.quit:
		return nil, net.ErrClosed
	case <-b.split.quit:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (b *branch) Close() error {
	b.once.Do(func() { close(b.quit) })
	return nil
}

// Addr implements net.Listener.
func (b *branch) Addr() net.Addr { return b.addr }

// prefixConn gives back the bytes read while sorting.
type prefixConn struct {
	net.Conn
	prefix []byte
}

// Read implements net.Conn.
func (c *prefixConn) Read(p []byte) (int, error) {
	if len(c.prefix) > 0 {
		n := copy(p, c.prefix)
		c.prefix = c.prefix[n:]
		return n, nil
	}
	return c.Conn.Read(p)
}

// countedConn counts the bytes of a gRPC connection.
type countedConn struct {
	prefixConn
	traffic *ops.Traffic
}

// Read implements net.Conn.
func (c *countedConn) Read(p []byte) (int, error) {
	n, err := c.prefixConn.Read(p)
	c.traffic.Received.Add(int64(n))
	return n, err
}

// Write implements net.Conn.
func (c *countedConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.traffic.Sent.Add(int64(n))
	return n, err
}

// securedConn is a connection that speaks TLS. net/http takes Request.TLS from
// it.
type securedConn struct {
	net.Conn
	state  tls.ConnectionState
	forget func() // that it is open
}

// Close implements net.Conn.
func (c *securedConn) Close() error {
	c.forget()
	return c.Conn.Close()
}

// ConnectionState is that of the end of the handshake.
func (c *securedConn) ConnectionState() tls.ConnectionState { return c.state }

// endedTLS has gRPC take connections as they come, TLS having ended before, and
// tells it what the client showed. Only servers use it.
type endedTLS struct {
	credentials.TransportCredentials
}

// ServerHandshake implements credentials.TransportCredentials.
func (endedTLS) ServerHandshake(c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	secured, ok := c.(*securedConn)
	if !ok {
		return c, nil, nil
	}
	return c, credentials.TLSInfo{
		State: secured.state, CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity},
	}, nil
}

// Clone implements credentials.TransportCredentials.
func (e endedTLS) Clone() credentials.TransportCredentials { return e }
