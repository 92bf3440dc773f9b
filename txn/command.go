package txn

import (
	"encoding"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"

	"limpet/auth"
	"limpet/v2tree"
)

// Command is a pointer to one of the types in kinds, or *As.
type Command any

// As is a command of a client, with what is known of the caller while
// authentication is enabled. Login has the user for the caller.
type As struct {
	Caller  auth.Caller
	Command Command // not an As
}

// Login issues a simple token to the caller, whose password was right at the
// caller's revision. The log has only a digest of what the token is made of; it
// and the index of the entry are the effect, and the response's token.
type Login struct {
	Digest string `json:"digest"`
}

// Kinds of commands in an entry. The numbers are on disk: never reuse one.
const kindAs = 15

// kinds has the others. etcd's messages are encoded by protobuf, our own types
// as JSON unless they have an encoding of their own.
var kinds = map[byte]func() Command{
	1:  func() Command { return new(pb.PutRequest) },
	2:  func() Command { return new(pb.DeleteRangeRequest) },
	3:  func() Command { return new(pb.TxnRequest) },
	4:  func() Command { return new(pb.CompactionRequest) },
	5:  func() Command { return new(pb.LeaseGrantRequest) },
	6:  func() Command { return new(pb.LeaseRevokeRequest) },
	7:  func() Command { return new(pb.AlarmRequest) },
	8:  func() Command { return new(Member) },
	9:  func() Command { return new(Found) },
	10: func() Command { return new(MemberAdd) },
	11: func() Command { return new(MemberRemove) },
	12: func() Command { return new(MemberUpdate) },
	13: func() Command { return new(MemberPromote) },
	14: func() Command { return new(MemberRelease) },

	16: func() Command { return new(Login) },
	17: func() Command { return new(pb.AuthEnableRequest) },
	18: func() Command { return new(pb.AuthDisableRequest) },
	19: func() Command { return new(pb.AuthUserAddRequest) },
	20: func() Command { return new(pb.AuthUserDeleteRequest) },
	21: func() Command { return new(pb.AuthUserChangePasswordRequest) },
	22: func() Command { return new(pb.AuthUserGrantRoleRequest) },
	23: func() Command { return new(pb.AuthUserRevokeRoleRequest) },
	24: func() Command { return new(pb.AuthRoleAddRequest) },
	25: func() Command { return new(pb.AuthRoleDeleteRequest) },
	26: func() Command { return new(pb.AuthRoleGrantPermissionRequest) },
	27: func() Command { return new(pb.AuthRoleRevokePermissionRequest) },

	28: func() Command { return new(RotationStep) },

	// From here on of etcd's v2 API, in entries of format 6 (raftfsm).
	29: func() Command { return new(v2tree.Request) },
	30: func() Command { return new(v2tree.Expire) },
	31: func() Command { return new(auth.V2Change) },
}

// kindOf is the inverse of kinds.
var kindOf = func() map[reflect.Type]byte {
	m := make(map[reflect.Type]byte, len(kinds))
	for kind, empty := range kinds {
		m[reflect.TypeOf(empty())] = kind
	}
	return m
}()

// ForV2 reports whether cmd is of etcd's v2 API, as a client's or not.
func ForV2(cmd Command) bool {
	if as, ok := cmd.(*As); ok {
		cmd = as.Command
	}
	switch cmd.(type) {
	case *v2tree.Request, *v2tree.Expire, *auth.V2Change:
		return true
	}
	return false
}

// Append encodes cmd behind b: its kind and its bytes. The length is the
// caller's to keep.
func Append(b []byte, cmd Command) (kind byte, out []byte, err error) {
	if as, ok := cmd.(*As); ok {
		return appendAs(b, as)
	}
	kind, ok := kindOf[reflect.TypeOf(cmd)]
	if !ok {
		return 0, nil, fmt.Errorf("txn: no encoding for command %T", cmd)
	}
	switch m := cmd.(type) {
	case proto.Message:
		out, err = proto.MarshalOptions{}.MarshalAppend(b, m)
	case encoding.BinaryAppender:
		out, err = m.AppendBinary(b)
	default:
		out = append(b, encode(cmd)...)
	}
	return kind, out, err
}

// appendAs encodes
//
//	uvarint      the revision of the rules
//	uvarint      length of the user's name
//	bytes        the name
//	byte         kind of the command
//	bytes        the command
func appendAs(b []byte, as *As) (kind byte, out []byte, err error) {
	b = binary.AppendUvarint(b, as.Caller.Revision)
	b = binary.AppendUvarint(b, uint64(len(as.Caller.User)))
	b = append(b, as.Caller.User...)
	at := len(b)
	inner, out, err := Append(append(b, 0), as.Command)
	switch {
	case err != nil:
		return 0, nil, err
	case inner == kindAs:
		return 0, nil, errNestedAs
	}
	out[at] = inner
	return kindAs, out, nil
}

var (
	errNestedAs = errors.New("txn: a caller within a caller")
	errAs       = errors.New("txn: a caller that cannot be read")
)

// Decode is the inverse of Append. It keeps no reference to data.
func Decode(kind byte, data []byte) (Command, error) {
	if kind == kindAs {
		return decodeAs(data)
	}
	empty, ok := kinds[kind]
	if !ok {
		return nil, fmt.Errorf("txn: unknown command kind %d: written by a newer limpet", kind)
	}
	cmd := empty()
	switch m := cmd.(type) {
	case proto.Message:
		return cmd, proto.Unmarshal(data, m)
	case encoding.BinaryUnmarshaler:
		return cmd, m.UnmarshalBinary(data)
	}
	if err := json.Unmarshal(data, cmd); err != nil {
		return nil, err
	}
	switch c := cmd.(type) {
	case *MemberAdd:
		if c.Member == nil {
			return nil, errors.New("txn: an addition without a member")
		}
	case *Found:
		if slices.Contains(c.Members, nil) {
			return nil, errors.New("txn: a founding with a member that is none")
		}
	}
	return cmd, nil
}

func decodeAs(data []byte) (Command, error) {
	as := new(As)
	rev, w := binary.Uvarint(data)
	if w <= 0 {
		return nil, errAs
	}
	data = data[w:]
	n, w := binary.Uvarint(data)
	if w <= 0 || n >= uint64(len(data)-w) { // the kind follows
		return nil, errAs
	}
	data = data[w:]
	as.Caller = auth.Caller{User: string(data[:n]), Revision: rev}
	kind, data := data[n], data[n+1:]
	if kind == kindAs {
		return nil, errNestedAs
	}
	var err error
	as.Command, err = Decode(kind, data)
	return as, err
}
