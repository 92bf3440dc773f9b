package server

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	grpcpeer "google.golang.org/grpc/peer"

	"limpet/certs/certtest"
)

// gRPC's handlers and HTTP's see what the client showed.
func TestHandlersSeeTLS(t *testing.T) {
	ca := certtest.NewCA(t, "ours")
	server, alice := ca.Issue(certtest.Leaf{Names: loopback}), ca.Issue(certtest.Leaf{CN: "alice"})
	at := freeURL(t)
	ls, err := listenAll("x", []string{at, secure(at)}, false)
	if err != nil {
		t.Fatal(err)
	}
	if len(ls) != 1 {
		t.Fatalf("http and https at one address: got %d listeners, want 1", len(ls))
	}
	cfg := &tls.Config{Certificates: []tls.Certificate{server.TLS}, ClientAuth: tls.RequestClientCert, NextProtos: []string{"http/1.1", "h2"}}
	s := newSorted(t)
	split := newSplitter(ls, splitterConfig{traffic: s.traffic, tls: cfg, rejected: func(_ net.Addr, err error) { t.Error(err) }})
	defer split.close()
	seen := make(chan string, 1)
	g := grpc.NewServer(grpc.Creds(endedTLS{insecure.NewCredentials()}), grpc.UnknownServiceHandler(func(_ any, stream grpc.ServerStream) error {
		p, _ := grpcpeer.FromContext(stream.Context())
		name := "nobody"
		if info, ok := p.AuthInfo.(credentials.TLSInfo); ok {
			name = info.State.PeerCertificates[0].Subject.CommonName
		}
		seen <- name
		return nil
	}))
	h := &http.Server{ErrorLog: quiet(), Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		name := "nobody"
		if r.TLS != nil {
			name = r.TLS.PeerCertificates[0].Subject.CommonName
		}
		seen <- name
	})}
	var wg sync.WaitGroup
	// Owner: the test, for both; they end with their servers.
	wg.Go(func() { _ = g.Serve(split.grpc) })
	wg.Go(func() { _ = h.Serve(split.http) })
	for u, want := range map[string]string{at: "nobody", secure(at): "alice"} {
		if err := askGRPC(t, u, visitor(ca.Cert, &alice.TLS)); err == nil {
			t.Fatal("an unknown service answers")
		}
		if got := <-seen; got != want {
			t.Errorf("gRPC at %s sees %s, want %s", u, got, want)
		}
		if _, err := askHTTP(u, "/", visitor(ca.Cert, &alice.TLS)); err != nil {
			t.Fatal(err)
		}
		if got := <-seen; got != want {
			t.Errorf("HTTP at %s sees %s, want %s", u, got, want)
		}
	}
	g.Stop()
	_ = h.Close()
	wg.Wait()
}

// Clients that say half a greeting, or nonsense, keep nobody waiting, neither
// others nor close.
func TestHalfHandshakes(t *testing.T) {
	ca := certtest.NewCA(t, "ours")
	pair := ca.Issue(certtest.Leaf{Names: loopback})
	ls, err := listenAll("x", []string{secure(freeURL(t))}, false)
	if err != nil {
		t.Fatal(err)
	}
	rejected := make(chan error, 100)
	split := newSplitter(ls, splitterConfig{
		traffic: newSorted(t).traffic, tls: &tls.Config{Certificates: []tls.Certificate{pair.TLS}},
		rejected: func(_ net.Addr, err error) { rejected <- err },
	})
	defer split.close()
	dial := func(hello string) net.Conn {
		c, err := net.Dial("tcp", ls[0].Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		if err := errors.Join(c.SetDeadline(soon()), func() error { _, err := io.WriteString(c, hello); return err }()); err != nil {
			t.Fatal(err)
		}
		return c
	}
	half := []net.Conn{dial(""), dial("\x16"), dial("\x16\x03\x01\x02\x00\x01\x00\x01")}
	nonsense := dial("GET / HTTP/1.1\r\n\r\n")
	if _, err := io.ReadAll(nonsense); err != nil {
		t.Errorf("plain HTTP is not closed: %v", err)
	}
	if err := <-rejected; err == nil {
		t.Error("plain HTTP is no error")
	}
	good, err := tls.Dial("tcp", ls[0].Addr().String(), visitor(ca.Cert, nil))
	if err != nil {
		t.Fatalf("a good client beside the silent: %v", err)
	}
	defer func() { _ = good.Close() }()
	split.close()
	for _, c := range half {
		if _, err := c.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("half a greeting outlives close: %v", err)
		}
	}
}

func TestSocketFiles(t *testing.T) {
	file := filepath.Join(t.TempDir(), "limpet.sock")
	url := []string{"unix://" + file}
	live, err := listenAll("x", url, false)
	if err != nil {
		t.Fatal(err)
	}
	_, err = listenAll("x", url, false)
	wantSentence(t, "a socket in use", err, "--x: "+file+" is in use by another program; stop it or choose another port")
	// A process that dies leaves its file.
	live[0].Listener.(*net.UnixListener).SetUnlinkOnClose(false)
	closeAll(live)
	again, err := listenAll("x", url, false)
	if err != nil {
		t.Fatalf("in the place of a dead process's socket: %v", err)
	}
	closeAll(again)
	if err := os.WriteFile(file, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = listenAll("x", url, false)
	wantSentence(t, "a file", err, "--x: "+file+" cannot be listened on: there is something else that is not a socket; remove it, or choose another file")
	if data, err := os.ReadFile(file); err != nil || string(data) != "mine" {
		t.Errorf("the file that was in the way: %q, %v", data, err)
	}
	_, err = listenAll("x", []string{"unix:///" + strings.Repeat("x", 107)}, false)
	if err == nil || !strings.Contains(err.Error(), "the path has 108 bytes, want at most 107") {
		t.Errorf("a long path: %v", err)
	}
}
