//go:build linux

package scenario

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// request is one call to a member, with the error it gives.
type request struct {
	name    string
	learner bool // a learner answers it
	call    func(context.Context) error
}

// agreementRequests are those that a member cannot answer alone.
func agreementRequests(m *Member) []request {
	kv, lease, cluster := pb.NewKVClient(m.Conn), pb.NewLeaseClient(m.Conn), pb.NewClusterClient(m.Conn)
	key := []byte("minority")
	put := &pb.PutRequest{Key: key}
	read := &pb.RangeRequest{Key: key}
	return []request{
		{"Range", false, func(ctx context.Context) error { _, err := kv.Range(ctx, read); return err }},
		{"Put", false, func(ctx context.Context) error { _, err := kv.Put(ctx, put); return err }},
		{"DeleteRange", false, func(ctx context.Context) error {
			_, err := kv.DeleteRange(ctx, &pb.DeleteRangeRequest{Key: key})
			return err
		}},
		{"Txn of a read", false, func(ctx context.Context) error {
			op := &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: read}}
			_, err := kv.Txn(ctx, &pb.TxnRequest{Success: []*pb.RequestOp{op}})
			return err
		}},
		{"Txn of a write", false, func(ctx context.Context) error {
			op := &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: put}}
			_, err := kv.Txn(ctx, &pb.TxnRequest{Success: []*pb.RequestOp{op}})
			return err
		}},
		{"LeaseGrant", false, func(ctx context.Context) error {
			_, err := lease.LeaseGrant(ctx, &pb.LeaseGrantRequest{TTL: 60})
			return err
		}},
		{"LeaseRevoke", false, func(ctx context.Context) error {
			_, err := lease.LeaseRevoke(ctx, &pb.LeaseRevokeRequest{ID: 1})
			return err
		}},
		{"MemberList", true, func(ctx context.Context) error {
			_, err := cluster.MemberList(ctx, &pb.MemberListRequest{Linearizable: true})
			return err
		}},
	}
}

// refuses checks that m, which is alone, answers no request that needs the others, and that it
// answers those that do not.
func (s *story) refuses(m *Member) {
	s.t.Helper()
	var all sync.WaitGroup
	for _, r := range agreementRequests(m) {
		all.Go(func() {
			ctx, cancel := context.WithTimeout(s.t.Context(), attempt)
			defer cancel()
			start := time.Now()
			err := r.call(ctx)
			s.t.Logf("%s at %s, which is alone, after %v: %v", r.name, m.Name, time.Since(start).Round(time.Millisecond), err)
			if code := status.Code(err); code != codes.DeadlineExceeded && code != codes.Unavailable {
				s.t.Errorf("%s at %s, which is alone, gave %v, want it to be unavailable", r.name, m.Name, err)
			}
		})
	}
	all.Wait()
	s.Eventually("serializable requests at "+m.Name, func(ctx context.Context) error {
		if _, err := pb.NewClusterClient(m.Conn).MemberList(ctx, &pb.MemberListRequest{}); err != nil {
			return err
		}
		_, err := pb.NewKVClient(m.Conn).Range(ctx, &pb.RangeRequest{Key: []byte("minority"), Serializable: true})
		return err
	})
}

// leaderWatch is a watch that wants to be told when there is no leader.
type leaderWatch struct {
	member *Member
	ended  chan error
}

// withLeader marks a request as one that needs a leader, as clientv3.WithRequireLeader does.
func withLeader(ctx context.Context) context.Context {
	return metadata.AppendToOutgoingContext(ctx, rpctypes.MetadataRequireLeaderKey, rpctypes.MetadataHasLeader)
}

// requireLeader starts such a watch at m.
func requireLeader(t *testing.T, m *Member) *leaderWatch {
	t.Helper()
	ctx, cancel := context.WithTimeout(withLeader(t.Context()), patience)
	t.Cleanup(cancel)
	stream, err := openWatch(ctx, m, &pb.WatchCreateRequest{Key: []byte("never written")})
	if err != nil {
		t.Fatalf("watch at %s: %v", m.Name, err)
	}
	w := &leaderWatch{member: m, ended: make(chan error, 1)}
	// Owner: the test; ends with the stream, with ctx at the latest.
	go func() {
		for {
			resp, err := stream.Recv()
			if err == nil && resp.Canceled {
				err = fmt.Errorf("canceled: %s", resp.CancelReason)
			}
			if err != nil {
				w.ended <- err
				return
			}
		}
	}()
	return w
}

// openWatch starts a watch and returns when the member has said so.
func openWatch(ctx context.Context, m *Member, create *pb.WatchCreateRequest) (pb.Watch_WatchClient, error) {
	stream, err := pb.NewWatchClient(m.Conn).Watch(ctx)
	if err != nil {
		return nil, err
	}
	if err := stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: create}}); err != nil {
		return nil, err
	}
	resp, err := stream.Recv()
	if err == nil && (!resp.Created || resp.Canceled) {
		err = fmt.Errorf("got %v, want the watch to be created", resp)
	}
	return stream, err
}

// endsWithoutLeader checks that the watch ends, and that new requests that want a leader are refused.
func (w *leaderWatch) endsWithoutLeader(t *testing.T) {
	t.Helper()
	want := rpctypes.ErrorDesc(rpctypes.ErrGRPCNoLeader)
	err := <-w.ended
	t.Logf("a watch that requires a leader ended at %s with %v", w.member.Name, err)
	if !strings.Contains(err.Error(), want) {
		t.Errorf("a watch that requires a leader ended at %s with %v, want %q", w.member.Name, err, want)
	}
	ctx, cancel := context.WithTimeout(withLeader(t.Context()), attempt)
	defer cancel()
	_, err = pb.NewKVClient(w.member.Conn).Range(ctx, &pb.RangeRequest{Key: []byte("minority")})
	if rpctypes.ErrorDesc(err) != want {
		t.Errorf("Range with a leader required at %s gave %v, want %q", w.member.Name, err, want)
	}
	if stream, err := openWatch(ctx, w.member, &pb.WatchCreateRequest{Key: []byte("never written")}); rpctypes.ErrorDesc(err) != want {
		t.Errorf("a new watch that requires a leader at %s gave %v, %v, want %q", w.member.Name, stream, err, want)
	}
}
