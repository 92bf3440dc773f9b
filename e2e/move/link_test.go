package move

import (
	"net"
	"sync"
	"testing"
)

// link passes bytes on between clients and a server, and does something once when so many have come from the server.
type link struct {
	at   string
	mu   sync.Mutex // guards the rest
	said int
	when int
	do   func()
	open []net.Conn
	over bool
}

func newLink(t *testing.T, server string) *link {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	k := &link{at: l.Addr().String()}
	var running sync.WaitGroup
	// Owner: the test; ends with its listener.
	running.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			upstream, err := net.Dial("tcp", server)
			if err != nil {
				_ = client.Close()
				continue
			}
			k.mu.Lock()
			k.open = append(k.open, client, upstream)
			if k.over {
				_, _ = client.Close(), upstream.Close()
			}
			k.mu.Unlock()
			running.Go(func() { k.pass(client, upstream, false) })
			running.Go(func() { k.pass(upstream, client, true) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		k.mu.Lock()
		k.over = true
		for _, c := range k.open {
			_ = c.Close()
		}
		k.mu.Unlock()
		running.Wait()
	})
	return k
}

func (k *link) onBytes(n int, do func()) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.when, k.do = n, do
}

func (k *link) pass(from, to net.Conn, counts bool) {
	defer func() { _, _ = from.Close(), to.Close() }()
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		if counts {
			k.count(n)
		}
		if _, werr := to.Write(buf[:n]); err != nil || werr != nil {
			return
		}
	}
}

func (k *link) count(n int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.said += n; k.do != nil && k.said >= k.when {
		k.do()
		k.do = nil
	}
}
