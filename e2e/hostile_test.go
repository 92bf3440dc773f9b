package e2e

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"golang.org/x/net/http2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"

	"limpet/e2e/crash"
	"limpet/e2e/proc"
	"limpet/e2e/side"
)

// TestHostile lets a server go through ordeals, each followed by proof that it still answers and
// that nothing was lost. E2E_CONNS sets the number of idle connections.
func TestHostile(t *testing.T) {
	target := side.NewTarget(t, string(subject()), proc.Start(t, subject()))
	for i := range 200 {
		must(t, target, put(fmt.Sprintf("precious/%d", i), strings.Repeat("x", i)))
	}
	before, err := crash.HashAt(t.Context(), target.Conn, 0)
	if err != nil {
		t.Fatal(err)
	}
	idle := number(t, "E2E_CONNS", 3000)
	raiseFileLimit(t, idle+1000)
	ordeals := []struct {
		name string
		do   func(*testing.T, *side.Target)
	}{
		{"idle connections", func(t *testing.T, target *side.Target) { openAll(t, target, idle, nil) }},
		{"HTTP/2 preface, then silence", func(t *testing.T, target *side.Target) {
			openAll(t, target, idle/4, func(int) []byte { return []byte(http2.ClientPreface) })
		}},
		{"half an HTTP/1 request", func(t *testing.T, target *side.Target) {
			openAll(t, target, idle/4, func(i int) []byte { return fmt.Appendf(nil, "POST /version HTTP/1.1\r\nHost: x\r\nX-%d: ", i) })
		}},
		{"a body that never comes", func(t *testing.T, target *side.Target) {
			openAll(t, target, idle/4, func(int) []byte {
				return []byte("POST /version HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\nx")
			})
		}},
		{"garbage", garbage},
		{"half-closed streams", halfClosed},
		{"requests without end", endless},
		{"watchers that never read", silentWatchers},
	}
	for _, o := range ordeals {
		t.Run(o.name, func(t *testing.T) {
			o.do(t, target)
			unharmed(t, target, before)
			t.Logf("resident memory %d MiB", target.Server.RSS()>>20)
		})
	}
}

func must(t *testing.T, target *side.Target, step side.Step) side.Answer {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	a := step.Run(ctx, target)
	if a.Code != codes.OK || len(a.Broken) > 0 {
		t.Fatalf("%s answered %s", step, a)
	}
	return a
}

// unharmed checks that the server answers on new and old connections and has all it had.
func unharmed(t *testing.T, target *side.Target, want crash.Hash) {
	t.Helper()
	must(t, target, put("after", t.Name()))
	must(t, target, get("after"))
	if a := must(t, target, side.HTTP{Method: "GET", Path: "/readyz"}); a.Fields["status"] != "HTTP/1.1 200 OK" {
		t.Errorf("/readyz answered %s", a)
	}
	got, err := crash.HashAt(t.Context(), target.Conn, want.Revision)
	if err != nil || got != want {
		t.Errorf("HashKV is %+v (%v), was %+v", got, err, want)
	}
}

// openAll opens n connections, sends each what says, and keeps them open until the subtest ends.
// While they are open the server must answer.
func openAll(t *testing.T, target *side.Target, n int, says func(int) []byte) {
	t.Helper()
	for i := range n {
		conn, err := net.Dial("tcp", target.Server.Client)
		if err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
		t.Cleanup(func() { conn.Close() })
		if says == nil {
			continue
		}
		if _, err := conn.Write(says(i)); err != nil {
			t.Fatalf("connection %d: %v", i, err)
		}
	}
}

// garbage sends random bytes on many connections at once, some behind a good beginning.
func garbage(t *testing.T, target *side.Target) {
	beginnings := []string{"", "", http2.ClientPreface, "GET / HTTP/1.1\r\n", "\x16\x03\x01\x02\x00", "PRI * HTTP/2.0\r\n\r\n"}
	var all sync.WaitGroup
	for n := range 200 {
		all.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(n), 1))
			conn, err := net.Dial("tcp", target.Server.Client)
			if err != nil {
				t.Errorf("connection %d: %v", n, err)
				return
			}
			defer conn.Close()
			b := make([]byte, 1+rng.IntN(100_000))
			for i := range b {
				b[i] = byte(rng.Uint32())
			}
			// The server may hang up at any point; that is no failure.
			io.WriteString(conn, beginnings[n%len(beginnings)])
			conn.Write(b)
			conn.(*net.TCPConn).CloseWrite()
		})
	}
	all.Wait()
}

// halfClosed opens streams of both kinds, closes the sending side and keeps them.
func halfClosed(t *testing.T, target *side.Target) {
	for range 300 {
		w, err := pb.NewWatchClient(target.Conn).Watch(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := w.Send(watchRequest("precious/", "precious0")); err != nil {
			t.Fatal(err)
		}
		if err := w.CloseSend(); err != nil {
			t.Fatal(err)
		}
		k, err := pb.NewLeaseClient(target.Conn).LeaseKeepAlive(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := k.CloseSend(); err != nil {
			t.Fatal(err)
		}
		if _, err := k.Recv(); err != io.EOF {
			t.Fatalf("half-closed keep-alive ended with %v, want EOF", err)
		}
	}
}

// endless sends requests that are larger than allowed, many at once.
func endless(t *testing.T, target *side.Target) {
	big := strings.Repeat("x", 3<<20)
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			if a := put("big", big).Run(t.Context(), target); a.Code != codes.ResourceExhausted {
				t.Errorf("a put of 3 MiB answered %s", a)
			}
		})
	}
	all.Wait()
}

func watchRequest(key, end string) *pb.WatchRequest {
	return &pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: &pb.WatchCreateRequest{Key: []byte(key), RangeEnd: []byte(end)}}}
}

// silentWatchers lets 50 MB of events pass by 40 watchers that do not read. A live one must get
// each event, the server must not keep a copy for each of the others, and once they read, they
// must get all events too.
func silentWatchers(t *testing.T, target *side.Target) {
	const silent, puts, size = 40, 500, 100_000
	const allowedGrowth = 600 << 20 // 40 copies would be 2 GB
	before := target.Server.RSS()
	var streams []pb.Watch_WatchClient
	for range silent + 1 {
		streams = append(streams, ownWatch(t, target))
	}
	live := make(chan error, 1)
	// Ends with the stream, which ends with the test.
	go func() { live <- readEvents(streams[silent], puts) }()
	value := strings.Repeat("x", size)
	for range puts {
		must(t, target, put("loud", value))
	}
	if err := <-live; err != nil {
		t.Errorf("the watcher that reads: %v", err)
	}
	grown := target.Server.RSS() - before
	t.Logf("resident memory grew by %d MiB", grown>>20)
	if grown > allowedGrowth {
		t.Errorf("resident memory grew by %d MiB, want at most %d", grown>>20, allowedGrowth>>20)
	}
	for i, s := range streams[:3] {
		if err := readEvents(s, puts); err != nil {
			t.Errorf("silent watcher %d, now reading: %v", i, err)
		}
	}
}

// ownWatch opens a watch of "loud" on a connection of its own, with a small window, and reads only
// the answer to its creation.
func ownWatch(t *testing.T, target *side.Target) pb.Watch_WatchClient {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+target.Server.Client, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithInitialWindowSize(64<<10), grpc.WithInitialConnWindowSize(64<<10), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(1<<30)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	ctx, cancel := context.WithTimeout(context.Background(), 4*patience)
	t.Cleanup(cancel)
	w, err := pb.NewWatchClient(conn).Watch(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Send(watchRequest("loud", "")); err != nil {
		t.Fatal(err)
	}
	if resp, err := w.Recv(); err != nil || !resp.Created {
		t.Fatalf("watch began with %v, %v", resp, err)
	}
	return w
}

// readEvents reads n events, whose versions must go up one by one.
func readEvents(w pb.Watch_WatchClient, n int) error {
	for version := int64(0); n > 0; {
		resp, err := w.Recv()
		if err != nil {
			return fmt.Errorf("%d events missing: %w", n, err)
		}
		for _, e := range resp.Events {
			if version != 0 && e.Kv.Version != version+1 {
				return fmt.Errorf("version %d after %d", e.Kv.Version, version)
			}
			version = e.Kv.Version
			n--
		}
	}
	return nil
}

func raiseFileLimit(t *testing.T, want int) {
	t.Helper()
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	limit.Cur = limit.Max
	if limit.Cur < uint64(want) {
		t.Skipf("the limit of open files is %d, this test needs %d", limit.Cur, want)
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
}
