package server

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/url"
	"sync"
	"syscall"
	"time"

	"limpet/api/ops"
)

// listenAll opens a listener for each URL; on error none stays open.
func listenAll(flag string, urls []string) ([]net.Listener, error) {
	var out []net.Listener
	seen := make(map[string]bool)
	for _, s := range urls {
		u, err := url.Parse(s)
		if err != nil {
			return nil, err // Validate has parsed it before
		}
		if seen[u.Host] {
			continue
		}
		seen[u.Host] = true
		l, err := net.Listen("tcp", u.Host)
		if err != nil {
			closeAll(out)
			if errors.Is(err, syscall.EADDRINUSE) {
				return nil, fmt.Errorf("--%s: %s is in use by another program; stop it or choose another port", flag, u.Host)
			}
			return nil, fmt.Errorf("--%s: %s cannot be listened on: %w", flag, u.Host, err)
		}
		out = append(out, l)
	}
	return out, nil
}

func closeAll(ls []net.Listener) {
	for _, l := range ls {
		_ = l.Close()
	}
}

// helloTimeout is how long a new connection may stay silent before it must
// have said which protocol it speaks.
const helloTimeout = 30 * time.Second

// preface begins every HTTP/2 connection, and no HTTP/1 request.
var preface = []byte("PRI * HTTP/2.0")

// splitter hands the connections of listeners to gRPC or HTTP/1 by their first
// bytes: both live on one port, as in etcd.
type splitter struct {
	grpc, http *branch
	traffic    *ops.Traffic // counts what gRPC connections carry
	quit       chan struct{}
	once       sync.Once
	ls         []net.Listener
	wg         sync.WaitGroup

	// mu guards silent.
	mu     sync.Mutex
	silent map[net.Conn]struct{} // connections that have not shown what they speak
}

func newSplitter(ls []net.Listener, traffic *ops.Traffic) *splitter {
	s := &splitter{traffic: traffic, quit: make(chan struct{}), ls: ls, silent: make(map[net.Conn]struct{})}
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

func (s *splitter) accept(l net.Listener) {
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
		s.wg.Go(func() { s.sort(c) })
	}
}

// sort reads until it is clear which protocol c speaks.
func (s *splitter) sort(c net.Conn) {
	if !s.hush(c, true) {
		_ = c.Close()
		return
	}
	defer s.hush(c, false)
	_ = c.SetReadDeadline(time.Now().Add(helloTimeout))
	head := make([]byte, 0, len(preface))
	for len(head) < len(preface) && bytes.HasPrefix(preface, head) {
		n, err := c.Read(head[len(head):cap(head)])
		head = head[:len(head)+n]
		if err != nil {
			_ = c.Close()
			return
		}
	}
	_ = c.SetReadDeadline(time.Time{})
	to, conn := s.http, net.Conn(&prefixConn{Conn: c, prefix: head})
	if bytes.HasPrefix(head, preface) {
		to, conn = s.grpc, &countedConn{prefixConn{Conn: c, prefix: head}, s.traffic}
	}
	select {
	case to.conns <- conn:
	case <-s.quit:
		_ = c.Close()
	case <-to.quit:
		_ = c.Close()
	}
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
