package crash

import (
	"context"
	"errors"
	"fmt"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// errWrong marks an answer that is a fault by itself, unlike a connection that broke.
var errWrong = errors.New("wrong answer")

// Fault tells whether a writer's error is more than the server's death: anything but a broken
// connection is.
func Fault(err error) bool {
	switch status.Code(err) {
	case codes.OK, codes.Unavailable, codes.Canceled:
		return false
	}
	return err != nil
}

// Survivors is what a restarted server holds.
type Survivors struct {
	Revision int64
	Present  map[string]map[string]int64 // by writer's prefix: key and lease
	Leases   map[int64]bool
	Wrong    []string
}

// Look reads the whole store and all leases and lets the ledger judge them.
func Look(ctx context.Context, conn *grpc.ClientConn, ledger *Ledger, writers []*Writer) (*Survivors, error) {
	state, err := pb.NewKVClient(conn).Range(ctx, &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}})
	if err != nil {
		return nil, fmt.Errorf("read the store: %w", err)
	}
	leases, err := pb.NewLeaseClient(conn).LeaseLeases(ctx, &pb.LeaseLeasesRequest{})
	if err != nil {
		return nil, fmt.Errorf("read the leases: %w", err)
	}
	s := &Survivors{Revision: state.Header.Revision, Present: map[string]map[string]int64{}, Leases: map[int64]bool{}}
	for _, l := range leases.Leases {
		s.Leases[l.ID] = true
	}
	for _, w := range writers {
		s.Present[w.Prefix()] = map[string]int64{}
	}
	for _, kv := range state.Kvs {
		if own := s.Present[string(kv.Key[:min(4, len(kv.Key))])]; own != nil {
			own[string(kv.Key)] = kv.Lease
		}
	}
	s.Wrong = append(ledger.CheckState(state.Kvs, s.Revision), ledger.CheckLeases(s.Leases)...)
	return s, nil
}

// Hash is a HashKV answer.
type Hash struct {
	Revision, Compacted int64
	Value               uint32
}

// HashAt asks for the hash at rev, 0 for now.
func HashAt(ctx context.Context, conn *grpc.ClientConn, rev int64) (Hash, error) {
	r, err := pb.NewMaintenanceClient(conn).HashKV(ctx, &pb.HashKVRequest{Revision: rev})
	if err != nil {
		return Hash{}, err
	}
	return Hash{Revision: r.HashRevision, Compacted: r.CompactRevision, Value: r.Hash}, nil
}
