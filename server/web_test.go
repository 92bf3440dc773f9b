package server

import (
	"net/http"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// HTTP on ports of its own: gRPC is where it was, and alone there.
func TestHTTPOnItsOwn(t *testing.T) {
	cfg := newConfig(t)
	cfg.ListenClientHTTPURLs = []string{freeURL(t)}
	m := start(t, cfg)
	m.put("foo", "bar")
	m.wantValue("foo", "bar")
	web := cfg.ListenClientHTTPURLs[0]
	for _, path := range []string{"/version", "/health", "/metrics"} {
		if code, body := httpGet(t, web+path); code != http.StatusOK {
			t.Errorf("%s: got %d %s, want 200", path, code, body)
		}
	}
	resp, err := http.Post(web+"/v3/kv/range", "application/json", strings.NewReader(`{"key":"Zm9v"}`))
	if err != nil {
		t.Fatal(err)
	}
	if err := resp.Body.Close(); err != nil || resp.StatusCode != http.StatusOK {
		t.Errorf("the gateway: got %s, %v, want 200", resp.Status, err)
	}
	http.DefaultClient.CloseIdleConnections()
	if resp, err := http.Get(cfg.ListenClientURLs[0] + "/version"); err == nil {
		_ = resp.Body.Close()
		t.Errorf("HTTP where gRPC is: got %s, want no answer", resp.Status)
	}
	conn, err := grpc.NewClient(strings.TrimPrefix(web, "http://"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if resp, err := pb.NewKVClient(conn).Range(t.Context(), &pb.RangeRequest{Key: []byte("foo")}); err == nil {
		t.Errorf("gRPC where HTTP is: got %v, want no answer", resp)
	}
	m.stop()
	wantFree(t, append(cfg.ListenClientURLs, web))
}

func TestWebConfig(t *testing.T) {
	for _, c := range []struct {
		cors, web []string
		want      string // in the error; empty: none
	}{
		{[]string{"*"}, nil, ""},
		{nil, nil, ""},
		{[]string{"http://a:1", "https://b:443"}, nil, ""},
		{[]string{"http://a"}, nil, "--cors"},
		{[]string{"http://a:1/x"}, nil, "must not contain a path"},
		{[]string{"a:1"}, nil, "scheme must be"},
		{[]string{"*", "http://a:1"}, nil, "scheme must be"},
		{nil, []string{"http://localhost:8080"}, ""},
		{nil, []string{"http://localhost:2379"}, "cannot bind both --listen-client-urls and --listen-client-http-urls on the same url http://localhost:2379"},
		{nil, []string{"https://localhost:2379"}, "cannot bind both"},
		{nil, []string{"https://localhost:8080"}, "TLS key/cert (--cert-file, --key-file) must be provided for client url https://localhost:8080"},
		{nil, []string{"http://example.org:1"}, "--listen-client-http-urls"},
	} {
		cfg := DefaultConfig()
		cfg.CORS, cfg.ListenClientHTTPURLs = c.cors, c.web
		err := cfg.Validate()
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("cors %q, HTTP at %q: got %v, want %q", c.cors, c.web, err, c.want)
		}
	}
}
