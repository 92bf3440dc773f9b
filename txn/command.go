package txn

import (
	"encoding/json"
	"errors"
	"fmt"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"
)

// Command is one of *pb.PutRequest, *pb.DeleteRangeRequest, *pb.TxnRequest,
// *pb.CompactionRequest, *pb.LeaseGrantRequest, *pb.LeaseRevokeRequest,
// *pb.AlarmRequest, *Found, *Member, *MemberAdd, *MemberRemove, *MemberUpdate,
// *MemberPromote or *MemberRelease.
type Command any

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
	kindFound
	kindMemberAdd
	kindMemberRemove
	kindMemberUpdate
	kindMemberPromote
	kindMemberRelease
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
		return kindMember, append(b, encode(c)...), nil
	case *Found:
		return kindFound, append(b, encode(c)...), nil
	case *MemberAdd:
		return kindMemberAdd, append(b, encode(c)...), nil
	case *MemberRemove:
		return kindMemberRemove, append(b, encode(c)...), nil
	case *MemberUpdate:
		return kindMemberUpdate, append(b, encode(c)...), nil
	case *MemberPromote:
		return kindMemberPromote, append(b, encode(c)...), nil
	case *MemberRelease:
		return kindMemberRelease, append(b, encode(c)...), nil
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
	default:
		return decodeJSON(kind, data)
	}
	return m, proto.Unmarshal(data, m)
}

func decodeJSON(kind byte, data []byte) (Command, error) {
	var c Command
	switch kind {
	case kindMember:
		c = new(Member)
	case kindFound:
		c = new(Found)
	case kindMemberAdd:
		c = new(MemberAdd)
	case kindMemberRemove:
		c = new(MemberRemove)
	case kindMemberUpdate:
		c = new(MemberUpdate)
	case kindMemberPromote:
		c = new(MemberPromote)
	case kindMemberRelease:
		c = new(MemberRelease)
	default:
		return nil, fmt.Errorf("txn: unknown command kind %d: written by a newer limpet", kind)
	}
	if err := json.Unmarshal(data, c); err != nil {
		return nil, err
	}
	if a, ok := c.(*MemberAdd); ok && a.Member == nil {
		return nil, errors.New("txn: an addition without a member")
	}
	return c, nil
}
