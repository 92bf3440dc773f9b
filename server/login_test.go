package server

import (
	"context"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"limpet/login"
)

// A token dies with the process, also if the log still has the login: how long
// it had been good for nobody knows after a crash.
func TestTokensDieWithTheProcess(t *testing.T) {
	cfg := newConfig(t)
	cfg.Login.Cost = login.MinCost
	m := start(t, cfg)
	m.put("key", "value")
	users := pb.NewAuthClient(m.conn)
	root := func(ctx context.Context, m *member) context.Context {
		resp, err := pb.NewAuthClient(m.conn).Authenticate(ctx, &pb.AuthenticateRequest{Name: "root", Password: "pw"})
		if err != nil {
			t.Fatal(err)
		}
		return metadata.AppendToOutgoingContext(ctx, "token", resp.Token)
	}
	for _, err := range []error{
		second(users.UserAdd(t.Context(), &pb.AuthUserAddRequest{Name: "root", Password: "pw"})),
		second(users.UserGrantRole(t.Context(), &pb.AuthUserGrantRoleRequest{User: "root", Role: "root"})),
		second(users.AuthEnable(t.Context(), &pb.AuthEnableRequest{})),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
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
