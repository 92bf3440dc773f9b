package api

import (
	"context"
	"errors"
	"log/slog"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"limpet/api/recipepb"
	"limpet/lease"
	"limpet/login"
	"limpet/raftfsm"
	"limpet/sqlstore"
	"limpet/watch"
)

// Version is the etcd release whose behaviour is implemented. Clients parse
// it; it is the same in every answer of every member.
const Version = "3.7.3"

// ClusterVersion is Version without its patch level, as etcd reports it for
// cluster and storage.
const ClusterVersion = "3.7.0"

// Config wires a Server. All fields are needed unless a default is named.
type Config struct {
	ClusterID func() uint64 // the present one
	MemberID  uint64

	Store *sqlstore.Store
	Node  *raftfsm.Node
	Hub   *watch.Hub
	Lease *lease.Lessor
	Login *login.Desk

	// Lead has the member that leads do a call of its peer service, LeadMemberAdd
	// and others; raftfsm.ErrNoLeader or ErrNotLeader if there is none, or it
	// ceased to lead before anything happened. nil: there are no other members.
	Lead func(ctx context.Context, method string, req, resp proto.Message) error

	CertUsers       bool          // a client's certificate names its user
	RelaxedReconfig bool          // do not protect the quorum when members change
	MaxLearners     int           // learners added by hand; 0: no bound
	MaxTxnOps       int           // 128
	MaxRequestBytes int           // 1.5 MiB
	QuotaBytes      int64         // 2 GiB; negative: no quota
	ElectionTimeout time.Duration // 1 s; sets request timeout and least lease TTL
	ProgressEvery   time.Duration // interval of periodic watch progress; 10 min

	Logger  *slog.Logger
	Metrics *Metrics // may be nil
}

// Defaults of etcd.
const (
	DefaultQuotaBytes      = 2 << 30
	DefaultMaxRequestBytes = 1536 << 10
	DefaultMaxTxnOps       = 128
	// grpcOverhead is what a gRPC message may have beyond max-request-bytes.
	grpcOverhead = 512 << 10
)

// Server implements etcd's v3 services. All methods may be called
// concurrently.
type Server struct {
	cfg Config
	log *slog.Logger
}

// New returns a Server with defaults filled in.
func New(cfg Config) *Server {
	if cfg.MaxTxnOps == 0 {
		cfg.MaxTxnOps = DefaultMaxTxnOps
	}
	if cfg.MaxRequestBytes == 0 {
		cfg.MaxRequestBytes = DefaultMaxRequestBytes
	}
	if cfg.QuotaBytes == 0 {
		cfg.QuotaBytes = DefaultQuotaBytes
	}
	if cfg.ElectionTimeout == 0 {
		cfg.ElectionTimeout = time.Second
	}
	if cfg.ProgressEvery == 0 {
		cfg.ProgressEvery = 10 * time.Minute
	}
	cfg.ProgressEvery = max(cfg.ProgressEvery, 100*time.Millisecond)
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Server{cfg: cfg, log: cfg.Logger}
}

// Register adds the services to g.
func (s *Server) Register(g *grpc.Server) {
	pb.RegisterKVServer(g, &kvServer{s: s})
	pb.RegisterWatchServer(g, &watchServer{s: s})
	pb.RegisterLeaseServer(g, &leaseServer{s: s})
	pb.RegisterClusterServer(g, &clusterServer{s: s})
	pb.RegisterMaintenanceServer(g, &maintenanceServer{s: s})
	pb.RegisterAuthServer(g, &authServer{s: s})
	recipepb.RegisterLockServer(g, &lockServer{line: line{s}})
	recipepb.RegisterElectionServer(g, &electionServer{line: line{s}})
}

// fill completes a response header: whose answer it is and, unless the answer
// brought its own, the current revision.
func (s *Server) fill(h *pb.ResponseHeader) *pb.ResponseHeader {
	if h.Revision == 0 {
		h.Revision = s.cfg.Store.Rev()
	}
	return s.sign(h)
}

func (s *Server) sign(h *pb.ResponseHeader) *pb.ResponseHeader {
	h.ClusterId, h.MemberId, h.RaftTerm = s.cfg.ClusterID(), s.cfg.MemberID, s.cfg.Node.Term()
	return h
}

// RequestTimeout is how long a request may take before the server gives up.
func (s *Server) RequestTimeout() time.Duration { return 5*time.Second + 2*s.cfg.ElectionTimeout }

// minLeaseTTL is the shortest lease in seconds: one and a half election
// timeouts, so that a change of leader does not end it.
func (s *Server) minLeaseTTL() int64 {
	return int64((3*s.cfg.ElectionTimeout/2 + time.Second - 1) / time.Second)
}

// confirm returns when the local state reflects all that was acknowledged
// before the call.
func (s *Server) confirm(ctx context.Context) error {
	if s.cfg.Node.ReadsLocally() {
		return ctx.Err()
	}
	tctx, cancel := context.WithTimeout(ctx, s.RequestTimeout())
	defer cancel()
	return s.ownTimeout(ctx, s.cfg.Node.ReadIndex(tctx))
}

// ownTimeout tells the server's deadline from the client's.
func (s *Server) ownTimeout(client context.Context, err error) error {
	if errors.Is(err, context.DeadlineExceeded) && client.Err() == nil {
		return errTimeout
	}
	return err
}

// LinearizableRead returns nil if the cluster can answer a read now.
func (s *Server) LinearizableRead(ctx context.Context) error { return wireError(s.confirm(ctx)) }
