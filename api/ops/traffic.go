package ops

import "sync/atomic"

// Traffic counts the bytes of gRPC connections, HTTP/2 framing included.
type Traffic struct {
	Sent, Received atomic.Int64
}
