package discovery

import (
	"context"
	"fmt"
	"log"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
)

const (
	// maxStreams bounds the TCP streams that are answered at a time. A stream
	// costs memory before it is authenticated: memberlist reads all of an
	// encrypted state, by itself up to 20 MiB, and only then opens it.
	maxStreams = 16
	// maxStreamBytes bounds what is read from one stream. A node takes at most
	// some 700 bytes in a state, so this is more than 700 nodes.
	maxStreamBytes = 512 << 10
)

// transport is memberlist's own with bounds on what strangers can make it
// hold, and with an end: Shutdown closes the streams under way, too.
type transport struct {
	*memberlist.NetTransport
	streams chan net.Conn
	dialing context.Context
	cancel  context.CancelFunc
	quit    chan struct{} // closed when Shutdown begins
	drained chan struct{} // closed when no more streams can arrive
	once    sync.Once
	pump    sync.WaitGroup

	// mu guards the fields below.
	mu      sync.Mutex
	open    map[*stream]struct{} // both directions
	inbound int
}

// listen opens TCP and UDP on bind. Port 0 takes one that both have free.
func listen(bind netip.AddrPort, logger *log.Logger) (*transport, error) {
	cfg := &memberlist.NetTransportConfig{
		BindAddrs: []string{bind.Addr().String()}, BindPort: int(bind.Port()), Logger: logger,
	}
	tries := 1
	if bind.Port() == 0 {
		tries = 10 // a port free for TCP may be taken for UDP
	}
	var inner *memberlist.NetTransport
	var err error
	for ; tries > 0; tries-- {
		if inner, err = memberlist.NewNetTransport(cfg); err == nil {
			break
		}
	}
	// The library's error does not wrap the system's, so its text must do.
	if err != nil && strings.Contains(err.Error(), "address already in use") {
		return nil, fmt.Errorf("gossip address %s is in use by another process: choose another with --gossip-address: %w", bind, err)
	}
	if err != nil {
		return nil, fmt.Errorf("gossip address %s (--gossip-address): %w", bind, err)
	}
	t := &transport{
		NetTransport: inner,
		streams:      make(chan net.Conn),
		quit:         make(chan struct{}), drained: make(chan struct{}),
		open: make(map[*stream]struct{}),
	}
	t.dialing, t.cancel = context.WithCancel(context.Background())
	t.pump.Add(1)
	go t.forward() // Owner: the transport; ends in Shutdown.
	return t, nil
}

// forward hands accepted connections on, as many as there may be.
func (t *transport) forward() {
	defer t.pump.Done()
	for {
		select {
		case conn := <-t.NetTransport.StreamCh():
			s := t.track(conn, true)
			if s == nil {
				_ = conn.Close() // nothing was written
				continue
			}
			select {
			case t.streams <- s:
			case <-t.quit:
				_ = s.Close()
			}
		case <-t.drained:
			return
		}
	}
}

// track returns conn with its bounds, nil if there are too many already or the
// transport is shut.
func (t *transport) track(conn net.Conn, inbound bool) *stream {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.open == nil || inbound && t.inbound >= maxStreams {
		return nil
	}
	s := &stream{Conn: conn, transport: t, inbound: inbound, left: maxStreamBytes}
	t.open[s] = struct{}{}
	if inbound {
		t.inbound++
	}
	return s
}

// StreamCh is part of memberlist.Transport.
func (t *transport) StreamCh() <-chan net.Conn { return t.streams }

// DialTimeout is part of memberlist.Transport.
func (t *transport) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	return t.DialAddressTimeout(memberlist.Address{Addr: addr}, timeout)
}

// DialAddressTimeout is part of memberlist.NodeAwareTransport.
func (t *transport) DialAddressTimeout(a memberlist.Address, timeout time.Duration) (net.Conn, error) {
	dialer := net.Dialer{Timeout: timeout}
	conn, err := dialer.DialContext(t.dialing, "tcp", a.Addr)
	if err != nil {
		return nil, err
	}
	s := t.track(conn, false)
	if s == nil {
		_ = conn.Close() // nothing was written
		return nil, net.ErrClosed
	}
	return s, nil
}

// Shutdown is part of memberlist.Transport. It is safe twice.
func (t *transport) Shutdown() error {
	var err error
	t.once.Do(func() {
		t.cancel()
		close(t.quit)
		// The listeners may wait to hand a stream on: forward takes it still.
		err = t.NetTransport.Shutdown()
		close(t.drained)
		t.pump.Wait()
		t.mu.Lock()
		open := t.open
		t.open = nil
		t.mu.Unlock()
		for s := range open {
			_ = s.Conn.Close() // whoever reads from it ends
		}
	})
	return err
}

// stream is a connection of which a bounded number of bytes is read. Read is
// called by one goroutine.
type stream struct {
	net.Conn
	transport *transport
	inbound   bool
	left      int
	once      sync.Once
}

func (s *stream) Read(p []byte) (int, error) {
	if s.left == 0 {
		return 0, fmt.Errorf("stream is longer than %d bytes", maxStreamBytes)
	}
	n, err := s.Conn.Read(p[:min(len(p), s.left)])
	s.left -= n
	return n, err
}

func (s *stream) Close() error {
	s.once.Do(func() {
		s.transport.mu.Lock()
		defer s.transport.mu.Unlock()
		delete(s.transport.open, s) // of a nil map: nothing
		if s.inbound {
			s.transport.inbound--
		}
	})
	return s.Conn.Close()
}
