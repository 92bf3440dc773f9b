package server

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"limpet/api/ops"
)

// sorted is a splitter on a free port.
type sorted struct {
	t       *testing.T
	split   *splitter
	traffic *ops.Traffic
	addr    string
}

func newSorted(t *testing.T) *sorted {
	t.Helper()
	ls, err := listenAll("listen-client-urls", []string{"http://127.0.0.1:0"}, false)
	if err != nil {
		t.Fatal(err)
	}
	s := &sorted{t: t, traffic: new(ops.Traffic), addr: ls[0].Addr().String()}
	s.split = newSplitter(ls, splitterConfig{traffic: s.traffic})
	t.Cleanup(s.split.close)
	return s
}

// dial connects and says hello.
func (s *sorted) dial(hello string) net.Conn {
	s.t.Helper()
	c, err := net.Dial("tcp", s.addr)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = c.Close() })
	if _, err := io.WriteString(c, hello); err != nil {
		s.t.Fatal(err)
	}
	return c
}

func (s *sorted) accept(b *branch) net.Conn {
	s.t.Helper()
	c, err := b.Accept()
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = c.Close() })
	return c
}

// wantRead reads exactly want from c, byte by byte if small.
func wantRead(t *testing.T, c io.Reader, want string, small bool) {
	t.Helper()
	got := make([]byte, len(want))
	if small {
		for i := range got {
			if _, err := io.ReadFull(c, got[i:i+1]); err != nil {
				t.Fatal(err)
			}
		}
	} else if _, err := io.ReadFull(c, got); err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Errorf("read %q, want %q", got, want)
	}
}

// wantClosed reads until the other side has closed c, and wants nothing
// before that.
func wantClosed(t *testing.T, c net.Conn) {
	t.Helper()
	n, err := c.Read(make([]byte, 1))
	var ne net.Error
	if n != 0 || err == nil || (errors.As(err, &ne) && ne.Timeout()) {
		t.Errorf("read %d bytes, %v; want the connection closed", n, err)
	}
}

const http2Hello = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nframes"

// No byte is lost by looking at it, and each protocol goes its way.
func TestSplitterSorts(t *testing.T) {
	for _, c := range []struct {
		name, hello string
		grpc        bool
	}{
		{"HTTP/2", http2Hello, true},
		{"HTTP/2, not a byte more than the preface", "PRI * HTTP/2.0", true},
		{"HTTP/1", "GET /health HTTP/1.1\r\n\r\n", false},
		{"a method that begins like the preface", "PROPFIND / HTTP/1.1\r\n\r\n", false},
		{"a request that is almost the preface", "PRI * HTTP/2.1\r\n\r\n", false},
		{"a TLS hello", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", false},
		{"zeros", strings.Repeat("\x00", 100), false},
		{"one byte", "x", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newSorted(t)
			client := s.dial(c.hello)
			to := s.split.http
			if c.grpc {
				to = s.split.grpc
			}
			conn := s.accept(to)
			wantRead(t, conn, c.hello, false)
			// The rest goes both ways as it is.
			if _, err := io.WriteString(client, "more"); err != nil {
				t.Fatal(err)
			}
			wantRead(t, conn, "more", false)
			if _, err := io.WriteString(conn, "answer"); err != nil {
				t.Fatal(err)
			}
			wantRead(t, client, "answer", false)

			received, sent := int64(0), int64(0)
			if c.grpc {
				received, sent = int64(len(c.hello)+len("more")), int64(len("answer"))
			}
			if r, w := s.traffic.Received.Load(), s.traffic.Sent.Load(); r != received || w != sent {
				t.Errorf("traffic: got %d received, %d sent, want %d and %d", r, w, received, sent)
			}
		})
	}
}

func TestSplitterTakesThePrefaceInPieces(t *testing.T) {
	s := newSorted(t)
	client := s.dial("")
	for _, b := range []byte(http2Hello) {
		if _, err := client.Write([]byte{b}); err != nil {
			t.Fatal(err)
		}
	}
	wantRead(t, s.accept(s.split.grpc), http2Hello, true)
}

// Whoever leaves before having said enough leaves nothing behind, and does not
// keep the next one waiting.
func TestSplitterForgetsThoseWhoLeave(t *testing.T) {
	for _, hello := range []string{"", "P", "PRI * HTT"} {
		t.Run(fmt.Sprintf("after %q", hello), func(t *testing.T) {
			s := newSorted(t)
			client := s.dial(hello)
			if err := client.(*net.TCPConn).CloseWrite(); err != nil {
				t.Fatal(err)
			}
			wantClosed(t, client)
			s.dial("GET / HTTP/1.1\r\n\r\n")
			wantRead(t, s.accept(s.split.http), "GET /", false)
		})
	}
}

// A silent client keeps nobody waiting, neither others nor close.
func TestSplitterClose(t *testing.T) {
	s := newSorted(t)
	silent := s.dial("")
	half := s.dial("PRI * ")
	unclaimed := s.dial(http2Hello) // nobody accepts it
	s.dial("GET / HTTP/1.1\r\n\r\n")
	wantRead(t, s.accept(s.split.http), "GET /", false)

	s.split.close()
	s.split.close() // twice is as good
	wantClosed(t, unclaimed)
	for name, b := range map[string]*branch{"grpc": s.split.grpc, "http": s.split.http} {
		if _, err := b.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("Accept of %s after close: got %v, want net.ErrClosed", name, err)
		}
	}
	if c, err := net.Dial("tcp", s.addr); err == nil {
		_ = c.Close()
		t.Error("the port still takes connections after close")
	}
	_ = silent.Close()
	_ = half.Close()
}

// The silent are cut off when the splitter closes: nothing of it outlives its
// close, as DESIGN asks of every Close.
func TestSplitterCloseEndsTheSilent(t *testing.T) {
	s := newSorted(t)
	silent, half := s.dial(""), s.dial("PRI * ")
	s.dial("GET / HTTP/1.1\r\n\r\n")
	s.accept(s.split.http) // the two before it have been accepted, too
	s.split.close()
	for name, c := range map[string]net.Conn{"silent": silent, "half a preface": half} {
		if err := c.SetReadDeadline(soon()); err != nil {
			t.Fatal(err)
		}
		t.Run(name, func(t *testing.T) { wantClosed(t, c) })
	}
}

// A server that stops takes its branch along; the other lives on.
func TestSplitterBranchCloses(t *testing.T) {
	s := newSorted(t)
	if err := s.split.grpc.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.split.grpc.Close(); err != nil {
		t.Fatalf("second Close: %v", err)
	}
	if _, err := s.split.grpc.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept after Close: got %v, want net.ErrClosed", err)
	}
	wantClosed(t, s.dial(http2Hello))
	s.dial("GET / HTTP/1.1\r\n\r\n")
	wantRead(t, s.accept(s.split.http), "GET /", false)
}

// Garbage is HTTP/1's to answer, which it does with 400.
func TestSplitterGarbageGetsAnAnswer(t *testing.T) {
	s := newSorted(t)
	srv := &http.Server{Handler: http.NotFoundHandler(), ErrorLog: quiet()}
	done := make(chan struct{})
	go func() { defer close(done); _ = srv.Serve(s.split.http) }()
	t.Cleanup(func() { _ = srv.Close(); <-done })
	client := s.dial("\x00\x01\x02 garbage\r\n\r\n")
	line, err := bufio.NewReader(client).ReadString('\n')
	if err != nil || !strings.HasPrefix(line, "HTTP/1.1 400") {
		t.Errorf("answer to garbage: got %q, %v, want HTTP/1.1 400", line, err)
	}
}

// --socket-reuse-port: a second process may listen where the first does.
func TestListenersShareAPort(t *testing.T) {
	first, err := listenAll("listen-client-urls", []string{"http://127.0.0.1:0"}, true)
	if err != nil {
		t.Fatal(err)
	}
	defer closeAll(first)
	second, err := listenAll("listen-client-urls", []string{"http://" + first[0].Addr().String()}, true)
	if err != nil {
		t.Fatalf("a port that is shared: %v", err)
	}
	closeAll(second)
}

func TestListenAll(t *testing.T) {
	ls, err := listenAll("listen-client-urls", []string{"http://127.0.0.1:0"}, false)
	if err != nil {
		t.Fatal(err)
	}
	defer closeAll(ls)
	taken := ls[0].Addr().String()

	_, err = listenAll("listen-client-urls", []string{"http://127.0.0.1:0", "http://" + taken}, false)
	wantSentence(t, "a port in use", err, fmt.Sprintf("--listen-client-urls: %s is in use by another program; stop it or choose another port", taken))

	_, err = listenAll("listen-metrics-urls", []string{"http://192.0.2.1:0"}, false)
	if err == nil || !strings.HasPrefix(err.Error(), "--listen-metrics-urls: 192.0.2.1:0 cannot be listened on: ") {
		t.Errorf("an address of another machine: got %v, want a sentence that names flag and address", err)
	}

	// The same URL twice is one listener; none is none.
	free := freeURL(t)
	twice, err := listenAll("x", []string{free, free}, false)
	if err != nil || len(twice) != 1 {
		t.Errorf("the same URL twice: got %d listeners, %v, want 1", len(twice), err)
	}
	closeAll(twice)
	if none, err := listenAll("x", nil, false); err != nil || len(none) != 0 {
		t.Errorf("no URL: got %d listeners, %v, want none", len(none), err)
	}
}

// On error none stays open: the port is free again at once.
func TestListenAllClosesOnError(t *testing.T) {
	ls, err := listenAll("x", []string{"http://127.0.0.1:0"}, false)
	if err != nil {
		t.Fatal(err)
	}
	defer closeAll(ls)
	free := freeURL(t)
	if _, err := listenAll("x", []string{free, "http://" + ls[0].Addr().String()}, false); err == nil {
		t.Fatal("listenAll with a taken port: got no error")
	}
	again, err := listenAll("x", []string{free}, false)
	if err != nil {
		t.Fatalf("the first port after the error: %v", err)
	}
	closeAll(again)
}

// told is a connection from somebody who has said all, in pieces of some bytes.
type told struct {
	net.Conn
	left  []byte
	piece int
	shut  bool
}

func (c *told) Read(b []byte) (int, error) {
	if len(c.left) == 0 {
		return 0, io.EOF
	}
	n := copy(b, c.left[:min(c.piece, len(c.left))])
	c.left = c.left[n:]
	return n, nil
}
func (c *told) Close() error                { c.shut = true; return nil }
func (c *told) SetDeadline(time.Time) error { return nil }

// FuzzSplitter: only what begins with the whole preface of HTTP/2 goes to gRPC,
// what may still become it goes nowhere, and no byte is lost, however they come.
func FuzzSplitter(f *testing.F) {
	for _, hello := range []string{"", "P", "PRI * HTTP/2.", http2Hello, "PRI * HTTP/2.1\r\n", "GET / HTTP/1.1\r\n\r\n", "\x16\x03\x01\x02\x00\x01", "PRIPRI * HTTP/2.0"} {
		for _, piece := range []byte{0, 3, 255} {
			f.Add([]byte(hello), piece)
		}
	}
	ls, err := listenAll("listen-client-urls", []string{"http://127.0.0.1:0"}, false)
	if err != nil {
		f.Fatal(err)
	}
	traffic := new(ops.Traffic)
	split := newSplitter(ls, splitterConfig{traffic: traffic})
	f.Cleanup(split.close)
	f.Fuzz(func(t *testing.T, data []byte, piece byte) {
		c := &told{left: data, piece: int(piece) + 1}
		before := traffic.Received.Load()
		sorted := make(chan struct{})
		// Owner: this test; ends when somebody takes c, or c does.
		go func() { defer close(sorted); split.sort(c, ls[0]) }()
		var to *branch
		var conn net.Conn
		select {
		case conn = <-split.grpc.conns:
			to = split.grpc
		case conn = <-split.http.conns:
			to = split.http
		case <-sorted:
		}
		var want *branch
		switch {
		case bytes.HasPrefix(data, preface):
			want = split.grpc
		case !bytes.HasPrefix(preface, data):
			want = split.http
		}
		if to != want || c.shut != (want == nil) {
			t.Fatalf("%q: went the wrong way, or was closed: %v", data, c.shut)
		}
		if to == nil {
			return
		}
		<-sorted
		got, err := io.ReadAll(conn)
		if err != nil || !bytes.Equal(got, data) {
			t.Errorf("read %q, %v; want %q", got, err, data)
		}
		counted := int64(0)
		if to == split.grpc {
			counted = int64(len(data))
		}
		if n := traffic.Received.Load() - before; n != counted {
			t.Errorf("%d bytes counted, want %d", n, counted)
		}
	})
}
