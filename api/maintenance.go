package api

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"time"

	"github.com/coreos/go-semver/semver"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"limpet/raftfsm"
	"limpet/txn"
)

type maintenanceServer struct {
	pb.UnsafeMaintenanceServer
	s *Server
}

// Alarm implements pb.MaintenanceServer.
func (m *maintenanceServer) Alarm(ctx context.Context, r *pb.AlarmRequest) (*pb.AlarmResponse, error) {
	may := m.s.admin
	if r.Action == pb.AlarmRequest_GET {
		may = m.s.known
	}
	if err := may(ctx); err != nil {
		return nil, err
	}
	if r.Action == pb.AlarmRequest_GET {
		// etcd has this go through its log, as it does a change of alarms.
		if err := m.s.confirm(ctx); errors.Is(err, errTimeout) && m.s.cfg.Node.Leader() == 0 {
			return nil, wireError(raftfsm.ErrUnsent)
		} else if err != nil {
			return nil, wireError(err)
		}
		resp := &pb.AlarmResponse{Header: m.s.fill(&pb.ResponseHeader{})}
		for _, a := range m.s.cfg.Node.Alarms() {
			if r.Alarm == pb.AlarmType_NONE || r.Alarm == a.Type {
				resp.Alarms = append(resp.Alarms, wireAlarm(a))
			}
		}
		return resp, nil
	}
	resp, err := write[*pb.AlarmResponse](ctx, m.s, r)
	if err != nil {
		return nil, err
	}
	m.s.fill(resp.Header)
	return resp, nil
}

func wireAlarm(a txn.Alarm) *pb.AlarmMember {
	return &pb.AlarmMember{MemberID: a.Member, Alarm: a.Type}
}

// Status implements pb.MaintenanceServer. It is local and works without a
// leader.
func (m *maintenanceServer) Status(ctx context.Context, _ *pb.StatusRequest) (*pb.StatusResponse, error) {
	s := m.s
	if err := s.known(ctx); err != nil {
		return nil, err
	}
	st, size := s.cfg.Node.Status(), s.cfg.Store.Stats()
	resp := &pb.StatusResponse{
		Header:  s.fill(&pb.ResponseHeader{}),
		Version: Version, StorageVersion: ClusterVersion,
		Leader: st.Leader, RaftIndex: st.Committed, RaftAppliedIndex: st.Applied, RaftTerm: st.Term,
		DbSize: size.Size, DbSizeInUse: size.SizeInUse, DbSizeQuota: s.cfg.QuotaBytes,
		IsLearner:     s.learner(),
		DowngradeInfo: &pb.DowngradeInfo{},
	}
	if st.Leader == 0 {
		resp.Errors = append(resp.Errors, rpctypes.ErrNoLeader.Error())
	}
	for _, a := range s.cfg.Node.Alarms() {
		resp.Errors = append(resp.Errors, wireAlarm(a).String())
	}
	return resp, nil
}

// Defragment implements pb.MaintenanceServer.
func (m *maintenanceServer) Defragment(ctx context.Context, _ *pb.DefragmentRequest) (*pb.DefragmentResponse, error) {
	if err := m.s.admin(ctx); err != nil {
		return nil, err
	}
	if g := m.s.cfg.Metrics; g != nil {
		g.Defragmenting.Inc()
		defer g.Defragmenting.Dec()
	}
	if err := m.s.cfg.Store.Defragment(ctx); err != nil {
		return nil, wireError(err)
	}
	return &pb.DefragmentResponse{}, nil
}

// Hash implements pb.MaintenanceServer.
func (m *maintenanceServer) Hash(ctx context.Context, _ *pb.HashRequest) (*pb.HashResponse, error) {
	if err := m.s.admin(ctx); err != nil {
		return nil, err
	}
	h, err := m.s.cfg.Store.HashKV(ctx, 0)
	if err != nil {
		return nil, wireError(err)
	}
	return &pb.HashResponse{Header: m.s.fill(&pb.ResponseHeader{}), Hash: h.Sum}, nil
}

// HashKV implements pb.MaintenanceServer. The hash is etcd's own.
func (m *maintenanceServer) HashKV(ctx context.Context, r *pb.HashKVRequest) (*pb.HashKVResponse, error) {
	if err := m.s.admin(ctx); err != nil {
		return nil, err
	}
	h, err := m.s.cfg.Store.HashKV(ctx, r.Revision)
	if err != nil {
		return nil, wireError(err)
	}
	return &pb.HashKVResponse{
		Header: m.s.fill(&pb.ResponseHeader{}), Hash: h.Sum, CompactRevision: h.Floor, HashRevision: h.Rev,
	}, nil
}

// snapshotChunk is the size of one message of a snapshot.
const snapshotChunk = 32 << 10

// Snapshot implements pb.MaintenanceServer: the database as one SQLite file,
// then its SHA-256.
func (m *maintenanceServer) Snapshot(_ *pb.SnapshotRequest, out pb.Maintenance_SnapshotServer) error {
	if err := m.s.admin(out.Context()); err != nil {
		return err
	}
	if m.s.cfg.Node.Leader() != 0 {
		// So that what anybody was answered before is in it; without a quorum, what this
		// member knows is.
		ctx, cancel := context.WithTimeout(out.Context(), snapshotConfirm)
		_ = m.s.confirm(ctx)
		cancel()
	}
	w := &snapshotWriter{out: out, sum: sha256.New()}
	err := m.s.cfg.Store.Image(out.Context(), func(n int64) error { w.left = n; return nil }, w)
	if err == nil {
		err = w.finish()
	}
	return wireError(err)
}

// snapshotConfirm bounds how long a snapshot waits for the cluster to confirm that the
// member is up to date.
const snapshotConfirm = 2 * time.Second

type snapshotWriter struct {
	out  pb.Maintenance_SnapshotServer
	buf  bytes.Buffer
	sum  hash.Hash
	left int64 // bytes not sent yet
}

// Write implements io.Writer.
func (w *snapshotWriter) Write(p []byte) (int, error) {
	w.buf.Write(p)
	for w.buf.Len() >= snapshotChunk {
		if err := w.send(snapshotChunk); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}

func (w *snapshotWriter) send(n int) error {
	blob := bytes.Clone(w.buf.Next(n)) // Send may keep it
	w.sum.Write(blob)
	w.left -= int64(len(blob))
	return w.out.Send(&pb.SnapshotResponse{RemainingBytes: uint64(max(w.left, 0)), Blob: blob, Version: ClusterVersion})
}

func (w *snapshotWriter) finish() error {
	if n := w.buf.Len(); n > 0 {
		if err := w.send(n); err != nil {
			return err
		}
	}
	if w.left != 0 {
		return fmt.Errorf("api: the snapshot is %d bytes off the size announced", w.left)
	}
	return w.out.Send(&pb.SnapshotResponse{Blob: w.sum.Sum(nil), Version: ClusterVersion})
}

// MoveLeader implements pb.MaintenanceServer. Only the leader does it.
func (m *maintenanceServer) MoveLeader(ctx context.Context, r *pb.MoveLeaderRequest) (*pb.MoveLeaderResponse, error) {
	if err := m.s.admin(ctx); err != nil {
		return nil, err
	}
	if m.s.cfg.Node.Leader() != m.s.cfg.MemberID {
		return nil, rpctypes.ErrGRPCNotLeader
	}
	to := m.s.cfg.Node.Membership().Member(r.TargetID)
	if to == nil || to.Learner {
		return nil, rpctypes.ErrGRPCBadLeaderTransferee
	}
	if r.TargetID == m.s.cfg.MemberID {
		return &pb.MoveLeaderResponse{}, nil
	}
	tctx, cancel := context.WithTimeout(ctx, m.s.RequestTimeout())
	defer cancel()
	if err := m.s.cfg.Node.HandOver(tctx, r.TargetID); err != nil {
		m.s.log.Warn("leadership could not be handed over", "to", fmt.Sprintf("%x", r.TargetID), "error", err)
		return nil, status.Error(codes.Unknown, "etcdserver: request timed out, leader transfer took too long")
	}
	return &pb.MoveLeaderResponse{}, nil
}

// Downgrade implements pb.MaintenanceServer. The storage format has no older
// version to go to, so nothing can be enabled; validating and cancelling
// answer as etcd does.
func (m *maintenanceServer) Downgrade(ctx context.Context, r *pb.DowngradeRequest) (*pb.DowngradeResponse, error) {
	if err := m.s.admin(ctx); err != nil {
		return nil, err
	}
	resp := &pb.DowngradeResponse{Header: m.s.fill(&pb.ResponseHeader{}), Version: minorVersion(semver.New(ClusterVersion))}
	switch r.Action {
	case pb.DowngradeRequest_VALIDATE, pb.DowngradeRequest_ENABLE:
		target, err := parseTarget(r.Version)
		if err != nil {
			return nil, rpctypes.ErrGRPCWrongDowngradeVersionFormat
		}
		now := semver.New(ClusterVersion)
		if target.Major != now.Major || target.Minor != now.Minor-1 {
			return nil, rpctypes.ErrGRPCInvalidDowngradeTargetVersion
		}
		if r.Action == pb.DowngradeRequest_ENABLE {
			return nil, status.Error(codes.FailedPrecondition, "limpet: there is no older storage version to downgrade to")
		}
		return resp, nil
	case pb.DowngradeRequest_CANCEL:
		return resp, nil
	}
	return nil, status.Error(codes.Unknown, "etcdserver: unknown method")
}

// parseTarget accepts X.Y and X.Y.Z.
func parseTarget(s string) (*semver.Version, error) {
	if v, err := semver.NewVersion(s); err == nil {
		return v, nil
	}
	return semver.NewVersion(s + ".0")
}

func minorVersion(v *semver.Version) string { return fmt.Sprintf("%d.%d", v.Major, v.Minor) }
