package proc

import (
	"net"
	"testing"
)

// FreeAddr gives a loopback address nobody listens on. Somebody could take it before the caller
// does; the kernel hands out ephemeral ports in an order that makes this rare.
func FreeAddr(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("find a free port: %v", err)
	}
	defer l.Close()
	return l.Addr().String()
}
