package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"math"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	grpcprom "github.com/grpc-ecosystem/go-grpc-middleware/providers/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"

	"limpet/api/ops"
)

const (
	// streamWindow and connWindow bound the bytes that a client may send ahead
	// of being read.
	streamWindow = 512 << 10
	connWindow   = 2 << 20
	// streamWorkers is the number of goroutines kept for handlers.
	streamWorkers = 128
	// grpcOverhead is what a gRPC message may have beyond max-request-bytes.
	grpcOverhead = 512 << 10
)

func (s *Server) buildGRPC() {
	var opts []grpcprom.ServerMetricsOption
	if s.cfg.Metrics == "extensive" {
		opts = append(opts, grpcprom.WithServerHandlingTimeHistogram())
	}
	counted := grpcprom.NewServerMetrics(opts...)
	s.metrics.Registry.MustRegister(counted)
	s.grpc = grpc.NewServer(
		grpc.Creds(endedTLS{insecure.NewCredentials()}),
		grpc.ChainUnaryInterceptor(counted.UnaryServerInterceptor(), s.api.UnaryInterceptor, s.streams.UnaryInterceptor),
		grpc.ChainStreamInterceptor(counted.StreamServerInterceptor(), s.streams.Interceptor),
		// Handlers run on goroutines that are kept, with stacks already grown;
		// streams that last take goroutines of their own.
		grpc.NumStreamWorkers(streamWorkers),
		// Fixed windows turn off grpc's bandwidth estimation, which answers each
		// request's data with a ping of its own: a write, a read and two
		// wake-ups more on both sides. A request fits a few windows.
		grpc.InitialWindowSize(streamWindow),
		grpc.InitialConnWindowSize(connWindow),
		grpc.MaxRecvMsgSize(s.cfg.MaxRequestBytes+grpcOverhead),
		grpc.MaxSendMsgSize(math.MaxInt32),
		grpc.MaxConcurrentStreams(s.cfg.MaxStreams),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: s.cfg.KeepaliveMinTime}),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: s.cfg.KeepaliveInterval, Timeout: s.cfg.KeepaliveTimeout}),
	)
	s.api.Register(s.grpc)
	h := health.NewServer()
	h.SetServingStatus("", healthpb.HealthCheckResponse_SERVING)
	healthpb.RegisterHealthServer(s.grpc, h)
	registerReflection(s.grpc)
	counted.InitializeMetrics(s.grpc)
}

// face is what an HTTP listener shows: that the member is not ready yet, then
// the real thing.
type face struct {
	ready atomic.Bool
	early http.Handler
	real  func() http.Handler
	http.Handler
}

func (f *face) show() {
	f.Handler = f.real()
	f.ready.Store(true)
}

// ServeHTTP implements http.Handler.
func (f *face) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if f.ready.Load() {
		f.Handler.ServeHTTP(w, r)
		return
	}
	f.early.ServeHTTP(w, r)
}

// serveHTTPFaces begins to answer HTTP, before the member is in its cluster:
// whoever asks learns what it waits for.
func (s *Server) serveHTTPFaces(context.Context) error {
	report := func(ctx context.Context) any { return s.local.Report(ctx) }
	early := ops.Early(s.local.Doing, report)
	if s.extra != nil {
		_ = s.extra.grpc.Close() // who speaks gRPC there is sent away
		s.serveHTTP(s.extra.http, s.addFace(early, func() http.Handler { return ops.MetricsHandler(s.health) }))
	}
	whole := func() http.Handler {
		var pages http.Handler = ops.Handler(s.health, report, s.cfg.Pprof, ops.Who{Root: s.api.RootHTTP, Known: s.api.KnownHTTP})
		pages = s.lookFace().Beside(pages)
		if s.cfg.V2 {
			pages = s.v2Face().Beside(pages)
		}
		if s.gateway == nil {
			return pages
		}
		return s.gateway.Beside(pages)
	}
	s.serveHTTP(s.web.http, s.cfg.access().Guard(s.addFace(early, whole)))
	if s.web != s.clients {
		// Who speaks the other protocol is sent away.
		_ = s.web.grpc.Close()
		_ = s.clients.http.Close()
	}
	return nil
}

func (s *Server) addFace(early http.Handler, real func() http.Handler) http.Handler {
	f := &face{early: early, real: real}
	s.faces = append(s.faces, f)
	return f
}

// serveGRPC begins to serve gRPC, and reports whether it had not begun.
func (s *Server) serveGRPC() (begins bool) {
	s.grpcOnce.Do(func() { begins = true; s.startGRPC(); close(s.opened) })
	return begins
}

func (s *Server) startGRPC() {
	// Owner: Server; ends when Stop stops the gRPC server.
	s.wg.Go(func() {
		if err := s.grpc.Serve(s.clients.grpc); err != nil && !errors.Is(err, grpc.ErrServerStopped) && !errors.Is(err, net.ErrClosed) {
			s.broken(fmt.Errorf("serve gRPC: %w", err))
		}
	})
}

func (s *Server) serveHTTP(l net.Listener, h http.Handler) {
	srv := &http.Server{
		Handler:           h,
		ReadHeaderTimeout: helloTimeout,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    1 << 20,
		ErrorLog:          log.New(httpLog{s.log}, "", 0),
	}
	s.http = append(s.http, srv)
	// Owner: Server; ends when Stop closes srv.
	s.wg.Go(func() {
		if err := srv.Serve(l); err != nil && !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
			s.broken(fmt.Errorf("serve HTTP: %w", err))
		}
	})
}

// httpLog takes what net/http has to say: mostly what clients do wrong, which is
// for debugging. A handler that panics is our fault.
type httpLog struct{ log *slog.Logger }

// Write implements io.Writer.
func (l httpLog) Write(line []byte) (int, error) {
	level := slog.LevelDebug
	if bytes.HasPrefix(line, []byte("http: panic")) {
		level = slog.LevelError
	}
	l.log.Log(context.Background(), level, string(bytes.TrimSpace(line)))
	return len(line), nil
}
