// Package servertest answers: on which address can a test start a server?
package servertest

import (
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
	"testing"
)

// Ports that tests listen on. They lie below those that the kernel gives
// connections (net.ipv4.ip_local_port_range begins at 32768), so that none is taken
// between being found free and being listened on. A process has blocks of its own.
const (
	firstPort = 20000
	lastPort  = 32700
	blockSize = 100
)

// mu guards the rest.
var (
	mu     sync.Mutex
	next   int            // of the newest block
	end    int            // of that block
	claims []net.Listener // the first port of each block, listened on until the process ends
)

// FreeAddr is an address of 127.0.0.1 that nobody listens on, and that no other
// call returns, here or in another process. It may be called concurrently.
func FreeAddr(t testing.TB) string {
	t.Helper()
	mu.Lock()
	defer mu.Unlock()
	for {
		if next == end && !claim() {
			t.Fatalf("no free ports from %d to %d on 127.0.0.1", firstPort, lastPort)
		}
		port := next
		next++
		if l, err := listen(port); err == nil {
			_ = l.Close()
			return l.Addr().String()
		}
	}
}

// claim takes a block that no other process has.
func claim() bool {
	blocks := (lastPort - firstPort) / blockSize
	for _, b := range rand.Perm(blocks) {
		first := firstPort + b*blockSize
		if l, err := listen(first); err == nil {
			claims = append(claims, l)
			next, end = first+1, first+blockSize
			return true
		}
	}
	return false
}

func listen(port int) (net.Listener, error) {
	return net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
}
