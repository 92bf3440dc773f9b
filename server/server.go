package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
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
	"limpet/cluster"
	"limpet/discovery"
	"limpet/lease"
	"limpet/memtune"
	"limpet/peer"
	"limpet/raftfsm"
	"limpet/sqlstore"
	"limpet/txn"
	"limpet/watch"
)

const (
	// stopPatience is how long requests under way get to finish when the
	// member stops.
	stopPatience = 500 * time.Millisecond
	// handOverPatience bounds the hand-over of leadership at the end.
	handOverPatience = time.Second
	// raftTimeout bounds one raft message; a follower answers when it has it on
	// disk.
	raftTimeout = 10 * time.Second
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
	gossip  *discovery.Gossip // nil: there is none
	beacon  *discovery.Beacon // nil: there is none
	local   *cluster.Local
	port    *peer.Port
	raft    *raft.NetworkTransport
	node    *raftfsm.Node
	hub     *watch.Hub
	lessor  *lease.Lessor
	api     *api.Server
	streams *api.Streams
	metrics *ops.Metrics
	health  *ops.Health

	grpc     *grpc.Server
	grpcOnce sync.Once
	http     []*http.Server
	clients  *splitter
	faces    []*face        // what the HTTP listeners serve
	extra    []net.Listener // the metrics listeners

	cancel  context.CancelFunc // ends the background work
	wg      sync.WaitGroup
	failed  chan error    // why the member cannot go on
	built   chan struct{} // closed once api is there
	ending  sync.RWMutex  // held for writing while ended is closed
	ended   chan struct{} // closed when Stop begins
	serving chan struct{} // closed once the member serves clients
	news    chan struct{} // holds one: gossip has changed

	stopOnce sync.Once
	stopErr  error
}

// Start starts a member and returns once it serves. cfg must be valid. On
// error nothing is left open.
func Start(ctx context.Context, cfg Config, log *slog.Logger) (started *Server, err error) {
	if err := inspectDataDir(cfg.DataDir); err != nil {
		return nil, err
	}
	if err := cfg.readToken(); err != nil {
		return nil, err
	}
	s := &Server{
		cfg: cfg, log: log, failed: make(chan error, 4),
		built: make(chan struct{}), ended: make(chan struct{}), serving: make(chan struct{}), news: make(chan struct{}, 1),
	}
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
	peers, err := cfg.peerListeners()
	if err != nil {
		return nil, err
	}
	if s.dir, err = openDataDir(cfg.DataDir); err != nil {
		closeAll(peers)
		return nil, err
	}
	if s.dir.id.Recovering != "" {
		closeAll(peers)
		return nil, fmt.Errorf("limpet recover did not finish on %s: run it again", cfg.DataDir)
	}
	if err := s.openPeers(peers); err != nil {
		return nil, err
	}
	s.serveHTTPFaces()
	if err := s.enter(ctx); err != nil {
		return nil, err
	}
	if err := s.awaitReady(ctx); err != nil {
		return nil, err
	}
	s.serveGRPC()
	if err := memtune.Settle(); err != nil {
		s.log.Debug("memory of the start was not given back", "error", err)
	}
	close(s.serving)
	s.log.Info("ready to serve client requests", "member", s.dir.id.MemberID, "cluster", s.dir.id.ClusterID,
		"name", s.local.Hello().Name, "client-urls", cfg.ListenClientURLs, "revision", s.store.Rev())
	return s, nil
}

// openState opens what lies on disk: the store, then the log, which brings the
// store up to date.
func (s *Server) openState(start *cluster.Start) (err error) {
	began := time.Now()
	if err := raftfsm.AdoptFile(s.dir.file(raftDirName), s.dir.file(databaseName), s.dir.id.member()); err != nil {
		return err
	}
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
	s.raft = raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		Stream: stream{s.port.Stream()}, MaxPool: raftPool, MaxRPCsInFlight: 1,
		Timeout: raftTimeout, Logger: raftfsm.NewRaftLogger(s.log),
	})
	s.node, err = raftfsm.Open(raftfsm.Config{
		Dir: s.dir.file(raftDirName), MemberID: s.dir.id.member(), Bootstrap: start.Bootstrap,
		Store: s.store, Transport: s.raft, Peers: s.local,
		ElectionTimeout: s.cfg.Election, HeartbeatTimeout: s.cfg.Election,
		ProposeTimeout:  5*time.Second + 2*s.cfg.Election,
		MaxRequestBytes: s.cfg.MaxRequestBytes, SnapshotEntries: s.cfg.SnapshotCount, MaxLogBytes: s.cfg.MaxLogBytes,
		Logger:   s.log,
		OnCommit: s.hub.Notify, OnJump: s.hub.Jumped, OnEffects: s.effects, OnLeader: s.led, OnNewLeader: func(uint64) { s.metrics.LeaderChanged() }, OnBroken: s.broken,
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
	if e.Members {
		s.local.Wake()
	}
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
		s.lessor.Lead()
	} else {
		s.lessor.Follow()
	}
}

// build makes the services and starts the background work.
func (s *Server) build() {
	s.api = api.New(api.Config{
		ClusterID: s.dir.id.cluster(), MemberID: s.dir.id.member(),
		Store: s.store, Node: s.node, Hub: s.hub, Lease: s.lessor, Lead: s.local.CallLeader,
		RelaxedReconfig: !s.cfg.StrictReconfig, MaxLearners: s.cfg.MaxLearners,
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
		Learner: func() bool { self := s.node.Membership().Self; return self != nil && self.Learner }, Disk: s.store.Err, Read: s.probe,
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
	s.wg.Go(func() { s.local.Run(ctx) })
	if s.gossip != nil {
		s.wg.Go(func() { s.followMoves(ctx.Done()) })
	}
	close(s.built)
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

// enter gets this member into its cluster, and opens what it has or is to
// have.
func (s *Server) enter(ctx context.Context) error {
	start, err := untilBroken(ctx, s, s.local.Enter)
	if err != nil {
		return err
	}
	if err := s.openState(start); err != nil {
		return err
	}
	s.local.Attach(s.node)
	s.build()
	for _, f := range s.faces {
		f.show()
	}
	return nil
}

// untilBroken runs one step of the start, and ends it when the member turns out
// to be unable to go on.
func untilBroken[T any](ctx context.Context, s *Server, step func(context.Context) (T, error)) (T, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	done := make(chan struct{})
	defer close(done)
	// Owner: this call; ends with it.
	s.wg.Go(func() {
		select {
		case err := <-s.failed:
			cancel(err)
		case <-done:
		}
	})
	v, err := step(ctx)
	if cause := context.Cause(ctx); err != nil && cause != nil && !errors.Is(cause, context.Canceled) {
		err = cause
	}
	return v, err
}

// awaitReady waits until this member has caught up, and the cluster knows it as
// it is.
func (s *Server) awaitReady(ctx context.Context) error {
	_, err := untilBroken(ctx, s, func(ctx context.Context) (struct{}, error) {
		if err := s.awaitLeader(ctx); err != nil {
			return struct{}{}, err
		}
		if err := s.local.Reported(ctx); err != nil {
			return struct{}{}, fmt.Errorf("stopped before the member was ready: %w", err)
		}
		return struct{}{}, nil
	})
	return err
}

// awaitLeader waits until this member has caught up. When that takes long, it
// serves meanwhile what needs no leader.
func (s *Server) awaitLeader(ctx context.Context) error {
	alone := time.NewTimer(alonePatience(s.cfg.Election))
	defer alone.Stop()
	for {
		select {
		case <-s.node.Ready():
			return nil
		case <-alone.C:
			if s.store.Applied() > 0 {
				s.log.Warn("no leader: this member only serves serializable reads, of what its disk holds, until it finds one")
				s.serveGRPC()
			}
		case <-ctx.Done():
			return fmt.Errorf("stopped before the member was ready: %w", ctx.Err())
		}
	}
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
func (s *Server) serveHTTPFaces() {
	report := func(ctx context.Context) any { return s.local.Report(ctx) }
	early := ops.Early(s.local.Doing, report)
	for _, l := range s.extra {
		s.serveHTTP(l, s.addFace(early, func() http.Handler { return ops.MetricsHandler(s.health) }))
	}
	s.serveHTTP(s.clients.http, ops.CORS(s.addFace(early, func() http.Handler { return ops.Handler(s.health, report, s.cfg.Pprof) })))
}

func (s *Server) addFace(early http.Handler, real func() http.Handler) http.Handler {
	f := &face{early: early, real: real}
	s.faces = append(s.faces, f)
	return f
}

// alonePatience is how long a member that has data waits for a leader before it
// serves what needs none: two elections.
func alonePatience(election time.Duration) time.Duration { return time.Second + 4*election }

// serveGRPC begins to serve gRPC, if it has not begun.
func (s *Server) serveGRPC() { s.grpcOnce.Do(s.startGRPC) }

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
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	s.http = append(s.http, srv)
	// Owner: Server; ends when Stop closes srv.
	s.wg.Go(func() {
		if err := srv.Serve(l); err != nil && !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
			s.broken(fmt.Errorf("serve HTTP: %w", err))
		}
	})
}

// Rejoins reports whether a member that ended with err can take part again as a
// new one, after Stop, and prepares its data directory for that.
func Rejoins(err error, cfg Config, log *slog.Logger) bool {
	if !errors.Is(err, cluster.ErrRecovered) || !cfg.gossips() {
		return false
	}
	d, err := openDataDir(cfg.DataDir)
	if err == nil {
		err = errors.Join(d.setAside(), d.close())
	}
	if err != nil {
		log.Error("the old data cannot be set aside", "error", err)
		return false
	}
	log.Warn("the cluster was recovered without this member: it joins again as a new one; its old data is kept", "folder", d.file(d.id.Aside))
	return true
}

// Failed yields an error when a listener dies while the member runs.
func (s *Server) Failed() <-chan error { return s.failed }

// Stop ends everything in the reverse order: streams are told, requests under
// way get a moment, what is applied is flushed. It is safe to call twice.
func (s *Server) Stop() error {
	s.stopOnce.Do(func() {
		s.ending.Lock()
		close(s.ended)
		s.ending.Unlock()
		s.stopErr = s.stop()
	})
	return s.stopErr
}

func (s *Server) stop() error {
	s.handOver()
	if s.streams != nil {
		s.streams.Stop()
	}
	if s.clients != nil {
		s.clients.close()
	}
	s.stopServers()
	closeAll(s.extra)
	if s.beacon != nil {
		_ = s.beacon.Close()
	}
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
	if s.raft != nil {
		errs = append(errs, s.raft.Close())
	}
	if s.port != nil {
		errs = append(errs, s.port.Close())
	}
	if s.gossip != nil {
		errs = append(errs, s.gossip.Close())
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

// handOver lets another member lead before this one goes: that is faster than
// having the others notice.
func (s *Server) handOver() {
	if s.node == nil || !s.node.Leading() || s.node.ReadsLocally() {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), handOverPatience)
	defer cancel()
	if err := s.node.HandOver(ctx, 0); err != nil {
		s.log.Warn("leadership could not be handed over; the others will notice", "error", err)
	}
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
