package ops

import "sync/atomic"

// Traffic counts the bytes of gRPC connections, HTTP/2 framing included, and
// connections of clients with which TLS came to nothing.
type Traffic struct {
	Sent, Received, Rejected atomic.Int64
}
