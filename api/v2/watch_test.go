package v2

import (
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"testing"
	"time"

	"limpet/v2tree"
)

// All who wait for an event share its line.
func TestLinesAreShared(t *testing.T) {
	var l lines
	one := &v2tree.Event{Action: v2tree.ActionSet, Key: "/a", Node: &v2tree.Node{Value: "1", Modified: 4, Created: 4}}
	two := &v2tree.Event{Action: v2tree.ActionSet, Key: "/a", Node: &v2tree.Node{Value: "2", Modified: 5, Created: 5}}
	first := l.of(one)
	if again := l.of(one); again != first {
		t.Error("the same event has two lines")
	}
	next := l.of(two)
	if got, want := string(next.text), `{"action":"set","node":{"key":"/a","value":"2","modifiedIndex":5,"createdIndex":5}}`+"\n"; got != want {
		t.Errorf("the next event is %s, want %s", got, want)
	}
	runtime.KeepAlive(first)
}

// A client that takes nothing is given up.
func TestSendGivesUp(t *testing.T) {
	sent := make(chan error)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		sent <- send(w, &line{text: []byte(strings.Repeat("x", 64<<20))}, 50*time.Millisecond)
	}))
	defer s.Close()
	conn, err := net.Dial("tcp", s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if _, err := conn.Write([]byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n")); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-sent:
		if err == nil {
			t.Error("64 MiB were sent to a client that reads nothing")
		}
	case <-time.After(20 * time.Second):
		t.Fatal("in 20 s not given up")
	}
}
