// Package gateway answers: how does a client without gRPC speak etcd's v3 API?
//
// It serves /v3/… as JSON over HTTP/1 and over websockets, by grpc-gateway's
// handlers that etcd generates, and asks this member's own gRPC server over a
// connection within the process. Whoever asks must show a token (header
// Authorization): the certificate of an HTTP connection says nothing to gRPC, as
// in etcd.
package gateway

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/gorilla/websocket"
	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	gw "go.etcd.io/etcd/api/v3/etcdserverpb/gw"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	"limpet/api/recipepb"
)

// path begins what the gateway serves; betaPath is its old name.
const (
	path     = "/v3/"
	betaPath = "/v3beta/"
)

// bodyPatience is how long the body of one message may take to arrive.
const bodyPatience = time.Minute

// lasting are the paths on which requests, and not only answers, are a stream.
var lasting = map[string]bool{path + "watch": true, path + "lease/keepalive": true}

// Config wires a Gateway.
type Config struct {
	// Dial connects to the gRPC server.
	Dial func(context.Context) (net.Conn, error)
	// MaxBytes is what the gRPC server takes as one message.
	MaxBytes int
	// CertUser reports whether a user is named by the client's certificate, which
	// would not count here.
	CertUser func(*http.Request) bool
	// RemoteKey is the metadata under which the gRPC server is told where a request
	// comes from. Its last value is the gateway's, behind what clients make up.
	RemoteKey string
	// MayConnect reports whether the page that has a browser send a request may
	// have a websocket.
	MayConnect func(*http.Request) bool
}

// Gateway serves path and betaPath. All methods may be called concurrently.
type Gateway struct {
	cfg      Config
	mux      *runtime.ServeMux
	conn     *grpc.ClientConn
	upgrader websocket.Upgrader
	ctx      context.Context // ends with Close
	cancel   context.CancelFunc
}

// Open makes a gateway. Nothing is dialled before the first request.
func Open(cfg Config) (*Gateway, error) {
	conn, err := grpc.NewClient("passthrough:///gateway",
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return cfg.Dial(ctx) }),
		grpc.WithTransportCredentials(insecure.NewCredentials()), // it stays in the process
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(math.MaxInt32), grpc.MaxCallSendMsgSize(math.MaxInt32)))
	if err != nil {
		return nil, fmt.Errorf("open the gateway: %w", err)
	}
	g := &Gateway{
		cfg: cfg, conn: conn, upgrader: websocket.Upgrader{CheckOrigin: cfg.MayConnect},
		mux: runtime.NewServeMux(runtime.WithMarshalerOption(runtime.MIMEWildcard, newJSON(cfg.MaxBytes)),
			runtime.WithMetadata(func(_ context.Context, r *http.Request) metadata.MD {
				return metadata.Pairs(cfg.RemoteKey, r.RemoteAddr)
			})),
	}
	g.ctx, g.cancel = context.WithCancel(context.Background())
	for _, register := range []func(context.Context, *runtime.ServeMux, *grpc.ClientConn) error{
		gw.RegisterKVHandler, gw.RegisterWatchHandler, gw.RegisterLeaseHandler,
		gw.RegisterClusterHandler, gw.RegisterMaintenanceHandler, gw.RegisterAuthHandler,
		recipepb.RegisterLockHandler, recipepb.RegisterElectionHandler,
	} {
		if err := register(g.ctx, g.mux, conn); err != nil {
			return nil, fmt.Errorf("open the gateway: %w", err)
		}
	}
	return g, nil
}

// Close ends the connection to the gRPC server, and websockets. Requests under
// way fail.
func (g *Gateway) Close() error {
	g.cancel()
	return g.conn.Close()
}

// Beside serves the gateway's paths, and everything else by other.
func (g *Gateway) Beside(other http.Handler) http.Handler {
	mux := http.NewServeMux() // which, as etcd's, redirects to clean paths
	mux.HandleFunc(path, g.serve)
	mux.Handle("/", other)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, betaPath) {
			r = r.Clone(r.Context())
			r.URL.Path = path + strings.TrimPrefix(r.URL.Path, betaPath)
		}
		mux.ServeHTTP(w, r)
	})
}

func (g *Gateway) serve(w http.ResponseWriter, r *http.Request) {
	switch {
	case g.cfg.CertUser(r):
		http.Error(w, "CommonName of client sending a request against gateway will be ignored and not used as expected", http.StatusBadRequest)
	case websocket.IsWebSocketUpgrade(r):
		g.serveWebsocket(w, r)
	default:
		g.serveHTTP(w, r)
	}
}

func (g *Gateway) serveHTTP(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	r = r.WithContext(ctx)
	in := &body{ReadCloser: r.Body, cancel: cancel, lasting: lasting[r.URL.Path], left: g.maxBody()}
	r.Body = in
	if !in.lasting {
		control := http.NewResponseController(w)
		// Where there are no deadlines, there is no network.
		_ = control.SetReadDeadline(time.Now().Add(bodyPatience))
		in.ended = func() { _ = control.SetReadDeadline(time.Time{}) } // whoever waits for a lock may wait long
	} else if !g.keepAll(w, r) {
		return
	}
	g.mux.ServeHTTP(w, r)
}

// maxBody is the most bytes that a request of one message can have: a message, and
// what a client puts behind it, a line's end perhaps.
func (g *Gateway) maxBody() int { return g.cfg.MaxBytes*jsonPerByte + 1<<10 }

// keepAll keeps net/http from throwing away, once the first answer is sent, what of
// the request has not been read by then; false if the client hung up.
func (g *Gateway) keepAll(w http.ResponseWriter, r *http.Request) bool {
	if r.ContentLength >= 0 && r.ContentLength <= int64(g.cfg.MaxBytes) {
		all, err := io.ReadAll(r.Body)
		r.Body = io.NopCloser(bytes.NewReader(all))
		return err == nil
	}
	// The client may have more to say after the first answer. HTTP/1 is all that
	// comes here, so this cannot fail; but net/http (Go 1.26) fails at the next
	// request on a connection on which something was left unread.
	_ = http.NewResponseController(w).EnableFullDuplex()
	w.Header().Set("Connection", "close")
	return true
}
