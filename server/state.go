package server

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/hashicorp/raft"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"limpet/api"
	"limpet/api/gateway"
	"limpet/api/ops"
	"limpet/api/v2"
	"limpet/auth"
	"limpet/cluster"
	"limpet/lease"
	"limpet/memtune"
	"limpet/raftfsm"
	"limpet/sqlstore"
	"limpet/txn"
	"limpet/watch"
)

// raftTimeout bounds one raft message; a follower answers when it has it on
// disk.
const raftTimeout = 10 * time.Second

// openState opens what lies on disk: the store, then the log, which brings the
// store up to date.
func (s *Server) openState(start *cluster.Start) (err error) {
	began := time.Now()
	if err := raftfsm.AdoptFile(s.dir.raftDir(), s.dir.file(databaseName), s.dir.now().member()); err != nil {
		return err
	}
	s.store, err = sqlstore.Open(sqlstore.Config{
		Path: s.dir.file(databaseName), Owner: s.dir.now().member(), Logger: s.log, Observe: s.metrics.StoreObserver(),
	})
	if err != nil {
		return err
	}
	st := s.store.Stats()
	s.log.Debug("opened the database", "revision", s.store.Rev(), "keys", st.Keys, "bytes", st.FileBytes, "took", time.Since(began))
	s.hub = watch.NewHub(s.store)
	s.space = newSpace(s.dir.path, s.dir.raftDir())
	if s.cfg.statfs != nil {
		s.space.statfs = s.cfg.statfs
	}
	s.lessor = lease.New(lease.Config{
		Revoke: func(ctx context.Context, id int64) error { return s.api.RevokeExpired(ctx, id) },
		Extend: s.cfg.Election, Logger: s.log,
	})
	s.raft = raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		Stream: stream{s.port.Stream()}, MaxPool: raftPool, MaxRPCsInFlight: 1,
		Timeout: raftTimeout, Logger: raftfsm.NewRaftLogger(s.log),
	})
	s.node, err = raftfsm.Open(raftfsm.Config{
		Dir: s.dir.raftDir(), MemberID: s.dir.now().member(), Bootstrap: start.Bootstrap,
		Store: s.store, Transport: images{s.raft, s.metrics.Images}, Peers: s.local,
		ElectionTimeout: s.cfg.Election, HeartbeatTimeout: s.cfg.Election,
		ProposeTimeout:  5*time.Second + 2*s.cfg.Election,
		MaxRequestBytes: s.cfg.MaxRequestBytes, SnapshotEntries: s.cfg.SnapshotCount, MaxLogBytes: s.cfg.MaxLogBytes, NoSync: s.cfg.NoFsync,
		Logger:   s.log,
		OnCommit: s.committed, OnJump: s.jumped, OnEffects: s.effects, OnLeader: s.led, OnNewLeader: func(uint64) { s.metrics.LeaderChanged() }, OnBroken: s.broken,
		Observe: s.metrics.RaftObserver(),
	})
	return err
}

// committed hears of what was agreed on.
func (s *Server) committed(commits []*sqlstore.Commit) {
	s.hub.Notify(commits)
	s.space.noteGrown()
}

// jumped hears that the leader's database has taken the place of ours.
func (s *Server) jumped() {
	s.hub.Jumped()
	select {
	case <-s.built: // s.node is there
		s.metrics.Images.Received(s.node.Leader())
	default:
	}
}

func (s *Server) effects(e txn.Effects) {
	s.space.noteGrown() // keys of v2, above all
	for _, l := range e.Leases {
		if l.Revoked {
			s.lessor.Revoked(l.ID)
		} else {
			s.lessor.Granted(l.ID, l.TTL)
		}
	}
	s.desk.Simple.Change(s.fresh(e.Tokens))
	s.metrics.Applied(e)
	if e.Members {
		s.local.Wake()
	}
}

// fresh leaves out tokens that were issued before this member had caught up: they
// are in the log, but how long they had been good for nobody knows any more.
func (s *Server) fresh(changes []auth.TokenChange) []auth.TokenChange {
	if len(changes) == 0 || s.caughtUp() {
		return changes
	}
	return slices.DeleteFunc(changes, func(c auth.TokenChange) bool { return c.Token != "" })
}

// caughtUp reports whether this member has applied all that was agreed on before
// it started.
func (s *Server) caughtUp() bool {
	select {
	case <-s.built: // s.node is there
	default:
		return false
	}
	select {
	case <-s.node.Ready():
		return true
	default:
		return false
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

// build makes the services.
func (s *Server) build() error {
	s.api = api.New(api.Config{
		ClusterID: s.clusterID, MemberID: s.dir.now().member(),
		Store: s.store, Node: s.node, Hub: s.hub, Lease: s.lessor, Login: s.desk, Lead: s.local.CallLeader,
		CertUsers: s.cfg.ClientTLS.ClientAuth, RelaxedReconfig: !s.cfg.StrictReconfig, MaxLearners: s.cfg.MaxLearners,
		MaxTxnOps: s.cfg.MaxTxnOps, MaxRequestBytes: s.cfg.MaxRequestBytes, QuotaBytes: s.cfg.QuotaBytes,
		ElectionTimeout: s.cfg.Election, ProgressEvery: s.cfg.ProgressEvery,
		Logger: s.log, Metrics: s.metrics.API,
	})
	s.streams = api.NewStreams(s.api)
	s.metrics.Watch(ops.Sources{
		Store: s.store, Node: s.node, Hub: s.hub,
		MemberID: s.dir.now().member(), QuotaBytes: s.cfg.QuotaBytes, Version: s.cfg.Version, Peer: s.port.Figures, Port: s.port.Stats,
	})
	s.health = &ops.Health{
		Alarms: s.alarms, HasLeader: func() bool { return s.node.Leader() != 0 },
		Learner: func() bool { self := s.node.Membership().Self; return self != nil && self.Learner }, Disk: s.store.Err, Read: s.probe,
		Logger: s.log, Metrics: s.metrics,
	}
	s.pulse = &pulse{now: time.Now, turns: s.node.Turns, vitals: s.node.Vitals, disk: s.store.Err}
	s.buildGRPC()
	if !s.cfg.Gateway {
		return nil
	}
	var err error
	s.gateway, err = gateway.Open(gateway.Config{
		Dial: s.clients.grpc.dial, MaxBytes: s.cfg.MaxRequestBytes + grpcOverhead,
		CertUser: s.api.CertUserHTTP, RemoteKey: api.RemoteKey, MayConnect: s.cfg.access().MayConnect,
	})
	return err
}

// v2Face is etcd's v2 API.
func (s *Server) v2Face() *v2.Face {
	return v2.New(v2.Config{
		ClusterID: s.clusterID, Node: s.node, Caller: s.api.BasicCaller, Timeout: s.api.RequestTimeout(), Serving: s.opened,
		API: s.api, Hash: s.desk.Passwords.Hash, Started: time.Now(), Logger: s.log,
	})
}

// clusterID is the cluster's ID as it was agreed on. A founder that came first may
// have named it otherwise than this member's data directory did at the start.
func (s *Server) clusterID() uint64 {
	if id := s.node.Membership().Cluster; id != 0 {
		return id
	}
	return s.dir.now().cluster()
}

// runBackground starts what goes on until Stop.
func (s *Server) runBackground() error {
	snapshots, release, err := s.snapshotKeeper()
	if err != nil {
		return err
	}
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
	s.wg.Go(func() { s.watchSpace(ctx) })
	s.wg.Go(func() { s.local.Run(ctx) })
	s.wg.Go(func() { s.local.Probe(ctx) })
	if s.gossip != nil {
		s.wg.Go(func() { s.followMoves(ctx.Done()) })
	}
	if snapshots != nil {
		s.wg.Go(func() {
			defer release()
			snapshots.Run(ctx)
		})
	}
	return nil
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
