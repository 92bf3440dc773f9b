package server

import (
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"testing"
)

// anotherAddress is an address of this machine that is not loopback: who calls
// it seems to come from there, as others do.
func anotherAddress(t *testing.T) string {
	t.Helper()
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && n.IP.IsGlobalUnicast() && n.IP.To4() != nil {
			return n.IP.String()
		}
	}
	t.Skip("this machine has no address but loopback")
	return ""
}

// What shows the process from within is for this machine alone, also when the
// client port is open to others, as etcd's open pages are.
func TestDebugIsForThisMachine(t *testing.T) {
	there := anotherAddress(t)
	cfg := newConfig(t)
	u, err := url.Parse(cfg.ListenClientURLs[0])
	if err != nil {
		t.Fatal(err)
	}
	cfg.ListenClientURLs, cfg.Pprof = []string{"http://0.0.0.0:" + u.Port()}, true
	start(t, cfg)
	for path, want := range map[string]int{
		"/debug/vars": 403, "/debug/pprof/": 403, "/debug/pprof/heap": 403, "/debug/pprof/cmdline": 403, "/debug/anything": 403,
		"/version": 200, "/health": 200, "/livez": 200, "/readyz": 200, "/metrics": 200,
	} {
		if code, body := httpGet(t, "http://"+net.JoinHostPort(there, u.Port())+path); code != want {
			t.Errorf("%s from another address: got %d, want %d: %s", path, code, want, body)
		}
		if code, body := httpGet(t, "http://127.0.0.1:"+u.Port()+path); code != 200 && path != "/debug/anything" {
			t.Errorf("%s from loopback: got %d, want 200: %s", path, code, body)
		}
	}
}

// A handler that panics is an error in the log, at any level.
func TestPanicsAreTold(t *testing.T) {
	said := new(syncBuffer)
	s := &Server{log: slog.New(slog.NewTextHandler(said, nil))}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.serveHTTP(l, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("a mistake") }))
	if resp, err := http.Get("http://" + l.Addr().String()); err == nil {
		_ = resp.Body.Close()
		t.Errorf("a handler that panics answers %s", resp.Status)
	}
	if err := s.http[0].Close(); err != nil {
		t.Error(err)
	}
	s.wg.Wait()
	eventually(t, "the log to tell", func() bool { return said.has("level=ERROR") && said.has("a mistake") })
}
