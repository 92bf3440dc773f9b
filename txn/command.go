package txn

import (
	"encoding/json"
	"fmt"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"
)

// Command is one of *pb.PutRequest, *pb.DeleteRangeRequest, *pb.TxnRequest,
// *pb.CompactionRequest, *pb.LeaseGrantRequest, *pb.LeaseRevokeRequest,
// *pb.AlarmRequest or *Member.
type Command any

// Member is one member of the cluster as etcd's membership calls show it; as a
// command it stores the member under its ID.
type Member struct {
	ID         uint64   `json:"id"`
	Name       string   `json:"name"`
	PeerURLs   []string `json:"peer_urls"`
	ClientURLs []string `json:"client_urls"`
	Learner    bool     `json:"learner,omitempty"`
}

// Kinds of commands in an entry. The numbers are on disk: never reuse one.
const (
	kindPut byte = iota + 1
	kindDeleteRange
	kindTxn
	kindCompact
	kindLeaseGrant
	kindLeaseRevoke
	kindAlarm
	kindMember
)

// Append encodes cmd behind b: its kind and its bytes. The length is the
// caller's to keep.
func Append(b []byte, cmd Command) (kind byte, out []byte, err error) {
	switch c := cmd.(type) {
	case *pb.PutRequest:
		kind = kindPut
	case *pb.DeleteRangeRequest:
		kind = kindDeleteRange
	case *pb.TxnRequest:
		kind = kindTxn
	case *pb.CompactionRequest:
		kind = kindCompact
	case *pb.LeaseGrantRequest:
		kind = kindLeaseGrant
	case *pb.LeaseRevokeRequest:
		kind = kindLeaseRevoke
	case *pb.AlarmRequest:
		kind = kindAlarm
	case *Member:
		data, err := json.Marshal(c)
		return kindMember, append(b, data...), err
	default:
		return 0, nil, fmt.Errorf("txn: no encoding for command %T", cmd)
	}
	out, err = proto.MarshalOptions{}.MarshalAppend(b, cmd.(proto.Message))
	return kind, out, err
}

// Decode is the inverse of Append. It keeps no reference to data.
func Decode(kind byte, data []byte) (Command, error) {
	var m proto.Message
	switch kind {
	case kindPut:
		m = new(pb.PutRequest)
	case kindDeleteRange:
		m = new(pb.DeleteRangeRequest)
	case kindTxn:
		m = new(pb.TxnRequest)
	case kindCompact:
		m = new(pb.CompactionRequest)
	case kindLeaseGrant:
		m = new(pb.LeaseGrantRequest)
	case kindLeaseRevoke:
		m = new(pb.LeaseRevokeRequest)
	case kindAlarm:
		m = new(pb.AlarmRequest)
	case kindMember:
		member := new(Member)
		err := json.Unmarshal(data, member)
		return member, err
	default:
		return nil, fmt.Errorf("txn: unknown command kind %d: written by a newer limpet", kind)
	}
	return m, proto.Unmarshal(data, m)
}
