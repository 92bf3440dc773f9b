package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	grpcprom "github.com/grpc-ecosystem/go-grpc-middleware/providers/prometheus"
	"github.com/hashicorp/raft"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/reflection"

	"limpet/api"
	"limpet/api/ops"
	"limpet/lease"
	"limpet/memtune"
	"limpet/raftfsm"
	"limpet/sqlstore"
	"limpet/txn"
	"limpet/watch"
)

const (
	// stopPatience is how long requests under way get to finish when the
	// member stops.
	stopPatience = 500 * time.Millisecond
	// streamWindow and connWindow bound the bytes that a client may send ahead
	// of being read.
	streamWindow = 512 << 10
	connWindow   = 2 << 20
	// streamWorkers is the number of goroutines kept for handlers.
	streamWorkers = 128
	// grpcOverhead is what a gRPC message may have beyond max-request-bytes.
	grpcOverhead = 512 << 10
)

// Server is a running member.
type Server struct {
	cfg     Config
	log     *slog.Logger
	dir     *dataDir
	store   *sqlstore.Store
	node    *raftfsm.Node
	hub     *watch.Hub
	lessor  *lease.Lessor
	api     *api.Server
	streams *api.Streams
	metrics *ops.Metrics
	health  *ops.Health

	grpc    *grpc.Server
	http    []*http.Server
	clients *splitter
	extra   []net.Listener // the metrics listeners

	cancel context.CancelFunc // ends the background work
	wg     sync.WaitGroup
	failed chan error // a listener that died

	stopOnce sync.Once
	stopErr  error
}

// Start starts a member and returns once it serves. cfg must be valid. On
// error nothing is left open.
func Start(ctx context.Context, cfg Config, log *slog.Logger) (started *Server, err error) {
	if err := inspectDataDir(cfg.DataDir); err != nil {
		return nil, err
	}
	s := &Server{cfg: cfg, log: log, failed: make(chan error, 4)}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Stop())
		}
	}()
	// The ports first: when one is taken, the data directory stays untouched.
	listeners, err := listenAll("listen-client-urls", cfg.ListenClientURLs)
	if err != nil {
		return nil, err
	}
	s.metrics = ops.NewMetrics()
	s.clients = newSplitter(listeners, s.metrics.Traffic)
	if s.extra, err = listenAll("listen-metrics-urls", cfg.ListenMetricsURLs); err != nil {
		return nil, err
	}
	if s.dir, err = openDataDir(cfg.DataDir); err != nil {
		return nil, err
	}
	if err := s.openState(); err != nil {
		return nil, err
	}
	s.build()
	s.serveMetrics()
	if err := s.awaitReady(ctx); err != nil {
		return nil, err
	}
	s.serveClients()
	if err := memtune.Settle(); err != nil {
		s.log.Debug("memory of the start was not given back", "error", err)
	}
	s.log.Info("ready to serve client requests", "member", s.dir.id.MemberID, "cluster", s.dir.id.ClusterID,
		"name", cfg.Name, "client-urls", cfg.ListenClientURLs, "revision", s.store.Rev())
	return s, nil
}

// openState opens what lies on disk: the store, then the log, which brings the
// store up to date.
func (s *Server) openState() (err error) {
	began := time.Now()
	s.store, err = sqlstore.Open(sqlstore.Config{
		Path: s.dir.file(databaseName), Owner: s.dir.id.member(), Logger: s.log, Observe: s.metrics.StoreObserver(),
	})
	if err != nil {
		return err
	}
	st := s.store.Stats()
	s.log.Debug("opened the database", "revision", s.store.Rev(), "keys", st.Keys, "bytes", st.FileBytes, "took", time.Since(began))
	s.hub = watch.NewHub(s.store)
	s.lessor = lease.New(lease.Config{
		Revoke: func(ctx context.Context, id int64) error { return s.api.RevokeExpired(ctx, id) },
		Extend: s.cfg.Election, Logger: s.log,
	})
	// One member talks to nobody; its transport never leaves the process.
	_, transport := raft.NewInmemTransport(raft.ServerAddress(s.cfg.AdvertisePeerURLs[0]))
	s.node, err = raftfsm.Open(raftfsm.Config{
		Dir: s.dir.file(raftDirName), MemberID: s.dir.id.member(), Bootstrap: true,
		Store: s.store, Transport: transport,
		ElectionTimeout: s.cfg.Election, HeartbeatTimeout: s.cfg.Election,
		ProposeTimeout:  5*time.Second + 2*s.cfg.Election,
		MaxRequestBytes: s.cfg.MaxRequestBytes, SnapshotEntries: s.cfg.SnapshotCount,
		Logger:   s.log,
		OnCommit: s.hub.Notify, OnEffects: s.effects, OnLeader: s.led, OnBroken: s.broken,
		Observe: s.metrics.RaftObserver(),
	})
	return err
}

func (s *Server) effects(e txn.Effects) {
	for _, l := range e.Granted {
		s.lessor.Granted(l.ID, l.TTL)
	}
	for _, id := range e.Revoked {
		s.lessor.Revoked(id)
	}
	s.metrics.Applied(e)
}

// broken ends the member because of err; only the first report counts.
func (s *Server) broken(err error) {
	select {
	case s.failed <- err:
	default:
	}
}

func (s *Server) led(leading bool) {
	if leading {
		s.metrics.LeaderChanged()
		s.lessor.Lead()
	} else {
		s.lessor.Follow()
	}
}

// build makes the services and starts the background work.
func (s *Server) build() {
	s.api = api.New(api.Config{
		ClusterID: s.dir.id.cluster(), MemberID: s.dir.id.member(),
		Store: s.store, Node: s.node, Hub: s.hub, Lease: s.lessor,
		MaxTxnOps: s.cfg.MaxTxnOps, MaxRequestBytes: s.cfg.MaxRequestBytes, QuotaBytes: s.cfg.QuotaBytes,
		ElectionTimeout: s.cfg.Election, ProgressEvery: s.cfg.ProgressEvery,
		Logger: s.log, Metrics: s.metrics.API,
	})
	s.streams = api.NewStreams(s.api)
	s.metrics.Watch(ops.Sources{
		Store: s.store, Node: s.node, Hub: s.hub,
		MemberID: s.dir.id.member(), QuotaBytes: s.cfg.QuotaBytes, Version: s.cfg.Version,
	})
	s.health = &ops.Health{
		Alarms: s.alarms, HasLeader: func() bool { return s.node.Leader() != 0 },
		Learner: func() bool { return false }, Disk: s.store.Err, Read: s.probe,
		Logger: s.log, Metrics: s.metrics,
	}
	s.buildGRPC()

	ctx, cancel := context.WithCancel(context.Background())
	s.cancel = cancel
	keep, _ := parseRetention(s.cfg.AutoCompactionMode, s.cfg.AutoCompactionRetention) // validated
	compactor := &compactor{
		keep: keep, rev: s.store.Rev, leading: s.node.Leading, log: s.log,
		compact: func(ctx context.Context, rev int64) error {
			_, err := s.node.Propose(ctx, &pb.CompactionRequest{Revision: rev})
			if errors.Is(err, txn.ErrCompacted) {
				return nil
			}
			return err
		},
	}
	// Owner: Server for all; each ends when Stop cancels ctx.
	s.wg.Go(func() { s.lessor.Run(ctx) })
	s.wg.Go(func() { s.streams.Run(ctx) })
	s.wg.Go(func() { compactor.run(ctx) })
	s.wg.Go(func() { memtune.Run(ctx) })
}

func (s *Server) buildGRPC() {
	var opts []grpcprom.ServerMetricsOption
	if s.cfg.Metrics == "extensive" {
		opts = append(opts, grpcprom.WithServerHandlingTimeHistogram())
	}
	counted := grpcprom.NewServerMetrics(opts...)
	s.metrics.Registry.MustRegister(counted)
	s.grpc = grpc.NewServer(
		grpc.ChainUnaryInterceptor(counted.UnaryServerInterceptor(), s.api.UnaryInterceptor),
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
	reflection.Register(s.grpc)
	counted.InitializeMetrics(s.grpc)
}

func (s *Server) alarms() []*pb.AlarmMember {
	var out []*pb.AlarmMember
	for _, a := range s.node.Alarms() {
		out = append(out, &pb.AlarmMember{MemberID: a.Member, Alarm: a.Type})
	}
	return out
}

// probe is the read behind the health endpoints.
func (s *Server) probe(ctx context.Context, serializable bool) error {
	if !serializable {
		if err := s.api.LinearizableRead(ctx); err != nil {
			return err
		}
	}
	_, err := s.store.View().Range("", "", sqlstore.RangeOptions{Limit: 1, KeysOnly: true, NoCount: true})
	return err
}

// awaitReady waits until this member has caught up, and makes sure that the
// cluster knows it under its present name and URLs.
func (s *Server) awaitReady(ctx context.Context) error {
	select {
	case <-s.node.Ready():
	case <-ctx.Done():
		return fmt.Errorf("stopped before the member was ready: %w", ctx.Err())
	}
	me := &txn.Member{ID: s.dir.id.member(), Name: s.cfg.Name, PeerURLs: s.cfg.AdvertisePeerURLs, ClientURLs: s.cfg.AdvertiseClientURLs}
	for _, m := range s.node.Members() {
		if m.ID == me.ID && m.Name == me.Name && slices.Equal(m.PeerURLs, me.PeerURLs) && slices.Equal(m.ClientURLs, me.ClientURLs) {
			return nil
		}
	}
	if _, err := s.node.Propose(ctx, me); err != nil {
		return fmt.Errorf("stopped before the member was ready: %w", err)
	}
	return nil
}

func (s *Server) serveMetrics() {
	for _, l := range s.extra {
		s.serveHTTP(l, ops.MetricsHandler(s.health))
	}
}

func (s *Server) serveClients() {
	s.serveHTTP(s.clients.http, ops.CORS(ops.Handler(s.health, s.cfg.Pprof)))
	// Owner: Server; ends when Stop stops the gRPC server.
	s.wg.Go(func() {
		if err := s.grpc.Serve(s.clients.grpc); err != nil && !errors.Is(err, grpc.ErrServerStopped) && !errors.Is(err, net.ErrClosed) {
			s.failed <- fmt.Errorf("serve gRPC: %w", err)
		}
	})
}

func (s *Server) serveHTTP(l net.Listener, h http.Handler) {
	srv := &http.Server{
		Handler:           h,
		ReadHeaderTimeout: helloTimeout,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    1 << 20,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	s.http = append(s.http, srv)
	// Owner: Server; ends when Stop closes srv.
	s.wg.Go(func() {
		if err := srv.Serve(l); err != nil && !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
			s.failed <- fmt.Errorf("serve HTTP: %w", err)
		}
	})
}

// Failed yields an error when a listener dies while the member runs.
func (s *Server) Failed() <-chan error { return s.failed }

// Stop ends everything in the reverse order: streams are told, requests under
// way get a moment, what is applied is flushed. It is safe to call twice.
func (s *Server) Stop() error {
	s.stopOnce.Do(func() { s.stopErr = s.stop() })
	return s.stopErr
}

func (s *Server) stop() error {
	if s.streams != nil {
		s.streams.Stop()
	}
	if s.clients != nil {
		s.clients.close()
	}
	s.stopServers()
	closeAll(s.extra)
	if s.cancel != nil {
		s.cancel()
	}
	var errs []error
	if s.store != nil {
		s.store.Interrupt()
	}
	if s.node != nil {
		errs = append(errs, s.node.Close())
	}
	s.wg.Wait()
	if s.store != nil {
		errs = append(errs, s.store.Close())
	}
	if s.dir != nil {
		errs = append(errs, s.dir.close())
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("stop: %w", err)
	}
	return nil
}

func (s *Server) stopServers() {
	if s.grpc == nil {
		return
	}
	done := make(chan struct{})
	// Owner: this call; ends when the requests under way do, or Stop cuts them.
	go func() {
		s.grpc.GracefulStop()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(stopPatience):
		s.grpc.Stop()
		<-done
	}
	for _, h := range s.http {
		_ = h.Close()
	}
}
