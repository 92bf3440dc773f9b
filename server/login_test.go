package server

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"limpet/api"
	"limpet/login"
)

// enableAuth makes root, with the password pw.
func enableAuth(t *testing.T, m *member) {
	t.Helper()
	users := pb.NewAuthClient(m.conn)
	for _, err := range []error{
		second(users.UserAdd(t.Context(), &pb.AuthUserAddRequest{Name: "root", Password: "pw"})),
		second(users.UserGrantRole(t.Context(), &pb.AuthUserGrantRoleRequest{User: "root", Role: "root"})),
		second(users.AuthEnable(t.Context(), &pb.AuthEnableRequest{})),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// Who guesses passwords has to wait, whatever he says of where he comes from; over
// a socket file, where there is no address, all are one.
func TestGuessesFromElsewhere(t *testing.T) {
	cfg := newConfig(t)
	cfg.Login.Cost = login.MinCost
	socket := filepath.Join(t.TempDir(), "limpet.sock")
	cfg.ListenClientURLs = append(cfg.ListenClientURLs, "unix://"+socket)
	m := start(t, cfg)
	enableAuth(t, m)
	overSocket := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}}
	for _, c := range []struct {
		client *http.Client
		url    string
	}{{overSocket, "http://localhost"}, {new(http.Client), cfg.ListenClientURLs[0]}} {
		waits := false
		for i := range 500 {
			r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, c.url+"/v3/auth/authenticate", strings.NewReader(`{"name":"root","password":"guess"}`))
			if err != nil {
				t.Fatal(err)
			}
			from := fmt.Sprintf("198.51.100.%d", i%250)
			for _, name := range []string{"X-Forwarded-For", "Grpc-Metadata-X-Forwarded-For", "Grpc-Metadata-" + api.RemoteKey} {
				r.Header.Set(name, from)
			}
			resp, err := c.client.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close()
			if waits = resp.StatusCode == http.StatusTooManyRequests; waits {
				break
			}
		}
		if !waits {
			t.Errorf("at %s nobody had to wait", c.url)
		}
		c.client.CloseIdleConnections()
	}
}

// A token dies with the process, also if the log still has the login: how long
// it had been good for nobody knows after a crash.
func TestTokensDieWithTheProcess(t *testing.T) {
	cfg := newConfig(t)
	cfg.Login.Cost = login.MinCost
	m := start(t, cfg)
	m.put("key", "value")
	root := func(ctx context.Context, m *member) context.Context {
		resp, err := pb.NewAuthClient(m.conn).Authenticate(ctx, &pb.AuthenticateRequest{Name: "root", Password: "pw"})
		if err != nil {
			t.Fatal(err)
		}
		return metadata.AppendToOutgoingContext(ctx, "token", resp.Token)
	}
	enableAuth(t, m)
	asRoot := root(t.Context(), m)
	get := func(ctx context.Context, m *member) codes.Code {
		_, err := m.kv.Range(ctx, &pb.RangeRequest{Key: []byte("key")})
		return status.Code(err)
	}
	if code := get(asRoot, m); code != codes.OK {
		t.Fatalf("with the token: %v", code)
	}
	crashed := cfg
	crashed.DataDir = crashImage(t, cfg.DataDir)
	m.stop()
	again := start(t, crashed)
	if code := get(asRoot, again); code != codes.Unauthenticated {
		t.Errorf("with the token from before the crash: %v, want %v", code, codes.Unauthenticated)
	}
	if code := get(root(t.Context(), again), again); code != codes.OK {
		t.Errorf("with a new token: %v", code)
	}
}

func second[T any](_ T, err error) error { return err }
