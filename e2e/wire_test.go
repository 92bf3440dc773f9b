package e2e

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"limpet/e2e/side"
)

// TestWire compares the answers to requests that no gRPC client library would send.
func TestWire(t *testing.T) {
	pair := side.NewPair(t, subject())
	get, err := proto.Marshal(&pb.RangeRequest{Key: []byte("a")})
	if err != nil {
		t.Fatal(err)
	}
	const path = "/etcdserverpb.KV/Range"
	whole := side.Frame(0, get)
	steps := []side.H2{
		{Name: "a proper request", Fields: side.GRPC(path), Data: whole},
		{Name: "content-type with a suffix", Fields: side.GRPC(path, [2]string{"content-type", "application/grpc+proto"}), Data: whole},
		{Name: "content-type of another codec", Fields: side.GRPC(path, [2]string{"content-type", "application/grpc+json"}), Data: whole},
		{Name: "content-type that is not gRPC", Fields: side.GRPC(path, [2]string{"content-type", "text/plain"}), Data: whole},
		{Name: "no content-type", Fields: side.GRPC(path, [2]string{"content-type", ""}), Data: whole},
		{Name: "GET", Fields: side.GRPC(path, [2]string{":method", "GET"}), Data: whole},
		{Name: "no te", Fields: side.GRPC(path, [2]string{"te", ""}), Data: whole},
		{Name: "no authority", Fields: side.GRPC(path, [2]string{":authority", ""}), Data: whole},
		{Name: "client API version that is not UTF-8", Fields: side.GRPC(path, [2]string{"client-api-version", "3.\xff"}), Data: whole},
		{Name: "empty token", Fields: side.GRPC(path, [2]string{"token", " "}), Data: whole},
		{Name: "token that is not UTF-8", Fields: side.GRPC(path, [2]string{"token", "\xfe\xff"}), Data: whole},
		{Name: "hasleader of another value", Fields: side.GRPC(path, [2]string{"hasleader", "maybe"}), Data: whole},
		{Name: "timeout nobody understands", Fields: side.GRPC(path, [2]string{"grpc-timeout", "soon"}), Data: whole},
		{Name: "compression nobody knows", Fields: side.GRPC(path, [2]string{"grpc-encoding", "snappy"}), Data: side.Frame(1, get)},
		{Name: "compressed without saying how", Fields: side.GRPC(path), Data: side.Frame(1, get)},
		{Name: "reserved flag", Fields: side.GRPC(path), Data: side.Frame(7, get)},
		{Name: "no message", Fields: side.GRPC(path), Data: []byte{}, Library: true},
		{Name: "an empty message", Fields: side.GRPC(path), Data: side.Frame(0, nil)},
		{Name: "a message cut short", Fields: side.GRPC(path), Data: whole[:len(whole)-1], Library: true},
		{Name: "a prefix cut short", Fields: side.GRPC(path), Data: whole[:3], Library: true},
		{Name: "a length beyond all limits", Fields: side.GRPC(path), Data: []byte{0, 0xff, 0xff, 0xff, 0xff}},
		{Name: "two messages", Fields: side.GRPC(path), Data: bytes.Repeat(whole, 2), Library: true},
		{Name: "unknown method", Fields: side.GRPC("/etcdserverpb.KV/Nope"), Data: whole},
		{Name: "unknown service", Fields: side.GRPC("/etcdserverpb.Nope/Range"), Data: whole},
		{Name: "no service", Fields: side.GRPC("/Range"), Data: whole},
		{Name: "no slash", Fields: side.GRPC("Range"), Data: whole},
		{Name: "root", Fields: side.GRPC("/"), Data: whole},
		{Name: "a plain page", Fields: side.GRPC("/version", [2]string{":method", "GET"}, [2]string{"content-type", ""}, [2]string{"te", ""}), Data: []byte{}},
		{Name: "upper-case header name", Fields: append(side.GRPC(path), [2]string{"X-Upper", "x"}), Data: whole},
		{Name: "connection header", Fields: append(side.GRPC(path), [2]string{"connection", "close"}), Data: whole},
		{Name: "version not UTF-8", Fields: side.GRPC("/etcdserverpb.Maintenance/Downgrade"), Data: side.Frame(0, []byte{0x12, 2, '3', 0xff})},
		{Name: "health of a service not UTF-8", Fields: side.GRPC("/grpc.health.v1.Health/Check"), Data: side.Frame(0, []byte{0x0a, 1, 0xff})},
	}
	for _, s := range steps {
		t.Run(s.Name, func(t *testing.T) { pair.On(t).Do(s) })
	}
}

// TestGarbage compares the answers to bytes that are hardly a protocol.
func TestGarbage(t *testing.T) {
	pair := side.NewPair(t, subject())
	steps := []side.Bytes{
		{Name: "nothing, half-closed", HalfClose: true},
		{Name: "HTTP/1.0", Send: []byte("GET /version HTTP/1.0\r\n\r\n")},
		{Name: "HTTP/1.1 without host", Send: []byte("GET /version HTTP/1.1\r\n\r\n")},
		{Name: "HTTP/1.1 and close", Send: []byte("GET /version HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")},
		{Name: "HTTP/1.1, half-closed", Send: []byte("GET /version HTTP/1.1\r\nHost: x\r\n\r\n"), HalfClose: true},
		{Name: "HTTP/1.1 kept alive", Send: []byte("GET /version HTTP/1.1\r\nHost: x\r\n\r\n")},
		{Name: "absolute form", Send: []byte("GET http://x/version HTTP/1.1\r\nHost: y\r\nConnection: close\r\n\r\n")},
		{Name: "CONNECT", Send: []byte("CONNECT x:1 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")},
		{Name: "upgrade to h2c", Send: []byte("GET /version HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n")},
		{Name: "bad chunk", Send: []byte("POST /version HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n")},
		{Name: "method of its own", Send: []byte("BREW /version HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")},
		{Name: "path with an escape", Send: []byte("GET /ver%73ion HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")},
		{Name: "path with dots", Send: []byte("GET /x/../version HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")},
		{Name: "double slash", Send: []byte("GET //version HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")},
		{Name: "huge header", Send: fmt.Appendf(nil, "GET /version HTTP/1.1\r\nHost: x\r\nX: %s\r\n\r\n", strings.Repeat("x", 2<<20))},
		{Name: "TLS hello", Send: []byte("\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03" + strings.Repeat("r", 200)), HalfClose: true, EndOnly: true},
		{Name: "zeros", Send: make([]byte, 1000), HalfClose: true, EndOnly: true},
		{Name: "a line of words", Send: []byte("hello, is this etcd?\r\n\r\n"), HalfClose: true, EndOnly: true},
		{Name: "preface cut short", Send: []byte("PRI * HTTP/2.0\r\n"), HalfClose: true, EndOnly: true},
		{Name: "preface, then garbage", Send: append([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), bytes.Repeat([]byte{0xee}, 100)...), HalfClose: true,
			EndOnly: true}, // the answer is the SETTINGS frame, and the windows in it are each server's own
	}
	for _, s := range steps {
		s.Patience = time.Second
		t.Run(s.Name, func(t *testing.T) { pair.On(t).Do(s) })
	}
}
