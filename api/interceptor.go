package api

import (
	"context"
	"sync"
	"time"
	"unicode/utf8"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	"limpet/api/recipepb"
)

// noLeaderPatience is how many election timeouts in a row this member must
// have known no leader before streams that require one are ended: opening them
// again costs more than waiting.
const noLeaderPatience = 3

// UnaryInterceptor understands the metadata that etcd's clients send.
func (s *Server) UnaryInterceptor(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	if s.learner() && !learnersAnswer(req) {
		return nil, rpctypes.ErrGRPCNotSupportedForLearner
	}
	if _, err := s.admit(ctx, "unary"); err != nil {
		return nil, err
	}
	return handler(ctx, req)
}

// learner reports whether this member has no vote.
func (s *Server) learner() bool {
	self := s.cfg.Node.Membership().Self
	return self != nil && self.Learner
}

// learnersAnswer reports whether a learner answers req: what needs neither a
// quorum nor fresh data (etcd isRPCSupportedForLearner).
func learnersAnswer(req any) bool {
	switch r := req.(type) {
	case *pb.StatusRequest:
		return true
	case *pb.RangeRequest:
		return r.Serializable
	}
	return false
}

// admit reads a request's metadata; requireLeader tells whether the client
// wants to be told when there is no leader.
func (s *Server) admit(ctx context.Context, kind string) (requireLeader bool, err error) {
	// Looking up two keys is much cheaper than copying the metadata whole.
	ver := "unknown"
	if v := metadata.ValueFromIncomingContext(ctx, rpctypes.MetadataClientAPIVersionKey); len(v) > 0 {
		ver = v[0]
	}
	if !utf8.ValidString(ver) {
		return false, rpctypes.ErrGRPCInvalidClientAPIVersion
	}
	if s.cfg.Metrics != nil {
		s.cfg.Metrics.countRequest(kind, ver)
	}
	v := metadata.ValueFromIncomingContext(ctx, rpctypes.MetadataRequireLeaderKey)
	if len(v) == 0 || v[0] != rpctypes.MetadataHasLeader {
		return false, nil
	}
	if s.cfg.Node.Leader() == 0 {
		return true, rpctypes.ErrGRPCNoLeader
	}
	return true, nil
}

// Streams knows the open streams, and calls that last as long, to end them in
// time: all when the server stops, those that require a leader once there has been
// none for a while.
type Streams struct {
	s *Server

	// mu guards open and stopped.
	mu      sync.Mutex
	open    map[*openStream]struct{}
	stopped bool
}

type openStream struct {
	cancel        context.CancelCauseFunc
	requireLeader bool
}

// NewStreams returns an empty set; Run watches over it.
func NewStreams(s *Server) *Streams {
	return &Streams{s: s, open: make(map[*openStream]struct{})}
}

// Interceptor is UnaryInterceptor for streams.
func (t *Streams) Interceptor(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	if t.s.learner() && info.FullMethod != pb.Maintenance_Snapshot_FullMethodName {
		return rpctypes.ErrGRPCNotSupportedForLearner
	}
	require, err := t.s.admit(ss.Context(), "stream")
	if err != nil {
		return err
	}
	ctx, done, err := t.begin(ss.Context(), require)
	if err != nil {
		return err
	}
	defer done()
	return handler(srv, &streamWithContext{ss, ctx})
}

// UnaryInterceptor is for calls that last as streams do: those that wait for a
// lock, or for an election.
func (t *Streams) UnaryInterceptor(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	switch req.(type) {
	case *recipepb.LockRequest, *recipepb.CampaignRequest:
	default:
		return handler(ctx, req)
	}
	ctx, done, err := t.begin(ctx, false)
	if err != nil {
		return nil, err
	}
	defer done()
	return handler(ctx, req)
}

// begin gives a stream its context, until done is called.
func (t *Streams) begin(ctx context.Context, requireLeader bool) (_ context.Context, done func(), err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.stopped {
		return nil, nil, rpctypes.ErrGRPCStopped
	}
	ctx, cancel := context.WithCancelCause(ctx)
	o := &openStream{cancel, requireLeader}
	t.open[o] = struct{}{}
	return ctx, func() {
		t.mu.Lock()
		delete(t.open, o)
		t.mu.Unlock()
		cancel(nil)
	}, nil
}

type streamWithContext struct {
	grpc.ServerStream
	ctx context.Context
}

// Context implements grpc.ServerStream.
func (s *streamWithContext) Context() context.Context { return s.ctx }

// Run looks for a leader once per election timeout until ctx ends.
func (t *Streams) Run(ctx context.Context) {
	ticker := time.NewTicker(t.s.cfg.ElectionTimeout)
	defer ticker.Stop()
	missing := 0
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if t.s.cfg.Node.Leader() != 0 {
			missing = 0
			continue
		}
		if missing++; missing >= noLeaderPatience {
			t.end(rpctypes.ErrGRPCNoLeader, func(o *openStream) bool { return o.requireLeader })
		}
	}
}

// Stop ends all streams and refuses new ones.
func (t *Streams) Stop() {
	t.mu.Lock()
	t.stopped = true
	t.mu.Unlock()
	t.end(rpctypes.ErrGRPCStopped, func(*openStream) bool { return true })
}

func (t *Streams) end(why error, which func(*openStream) bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for o := range t.open {
		if which(o) {
			o.cancel(why)
		}
	}
}
