// Package gateway answers: how does a client without gRPC speak etcd's v3 API?
//
// It serves /v3/… as JSON over HTTP/1, by grpc-gateway's handlers that etcd
// generates, and asks this member's own gRPC server over a connection within the
// process. Whoever asks must show a token (header Authorization): the certificate
// of an HTTP connection says nothing to gRPC, as in etcd.
package gateway

import (
	"context"
	"fmt"
	"math"
	"net"
	"net/http"
	"strings"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	gw "go.etcd.io/etcd/api/v3/etcdserverpb/gw"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/encoding/protojson"

	"limpet/api/recipepb"
)

// path begins what the gateway serves; betaPath is its old name.
const (
	path     = "/v3/"
	betaPath = "/v3beta/"
)

// Gateway is an http.Handler for path and betaPath.
type Gateway struct {
	mux  *runtime.ServeMux
	conn *grpc.ClientConn
}

// Open makes a gateway to the gRPC server that dial reaches. Nothing is dialled
// before the first request.
func Open(dial func(context.Context) (net.Conn, error)) (*Gateway, error) {
	conn, err := grpc.NewClient("passthrough:///gateway",
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return dial(ctx) }),
		grpc.WithTransportCredentials(insecure.NewCredentials()), // it stays in the process
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(math.MaxInt32), grpc.MaxCallSendMsgSize(math.MaxInt32)))
	if err != nil {
		return nil, fmt.Errorf("open the gateway: %w", err)
	}
	g := &Gateway{conn: conn, mux: runtime.NewServeMux(runtime.WithMarshalerOption(runtime.MIMEWildcard, &runtime.HTTPBodyMarshaler{
		// Names as etcd's .proto files have them, and no zero values.
		Marshaler: &runtime.JSONPb{
			MarshalOptions:   protojson.MarshalOptions{UseProtoNames: true},
			UnmarshalOptions: protojson.UnmarshalOptions{DiscardUnknown: true},
		},
	}))}
	for _, register := range []func(context.Context, *runtime.ServeMux, *grpc.ClientConn) error{
		gw.RegisterKVHandler, gw.RegisterWatchHandler, gw.RegisterLeaseHandler,
		gw.RegisterClusterHandler, gw.RegisterMaintenanceHandler, gw.RegisterAuthHandler,
		recipepb.RegisterLockHandler, recipepb.RegisterElectionHandler,
	} {
		if err := register(context.Background(), g.mux, conn); err != nil {
			return nil, fmt.Errorf("open the gateway: %w", err)
		}
	}
	return g, nil
}

// Close ends the connection to the gRPC server. Requests under way fail.
func (g *Gateway) Close() error { return g.conn.Close() }

// Beside serves the gateway's paths, and everything else by other.
func (g *Gateway) Beside(other http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasPrefix(r.URL.Path, betaPath):
			r = r.Clone(r.Context())
			r.URL.Path = path + strings.TrimPrefix(r.URL.Path, betaPath)
			g.mux.ServeHTTP(w, r)
		case strings.HasPrefix(r.URL.Path, path):
			g.mux.ServeHTTP(w, r)
		default:
			other.ServeHTTP(w, r)
		}
	})
}
