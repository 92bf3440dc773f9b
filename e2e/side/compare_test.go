package side

import (
	"slices"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

func header(rev int64, term uint64) *pb.ResponseHeader {
	return &pb.ResponseHeader{ClusterId: NeutralCluster, MemberId: NeutralMember, Revision: rev, RaftTerm: term}
}

func answer(ms ...proto.Message) Answer { return Answer{Messages: ms} }

func withUnknown(m proto.Message) proto.Message {
	m.ProtoReflect().SetUnknown(protowire.AppendVarint(protowire.AppendTag(nil, 99, protowire.VarintType), 1))
	return m
}

// TestComparerSees puts a difference into an answer and expects it to be found where it is, or,
// if it is an allowed one, to be passed over.
func TestComparerSees(t *testing.T) {
	kv := func(lease int64) *mvccpb.KeyValue { return &mvccpb.KeyValue{Key: []byte("k"), Lease: lease} }
	alarm := func(id uint64) *pb.AlarmMember { return &pb.AlarmMember{MemberID: id, Alarm: pb.AlarmType_NOSPACE} }
	tests := []struct {
		name      string
		want, got Answer
		paths     []string
	}{
		{"nothing", answer(&pb.PutResponse{Header: header(5, 2)}), answer(&pb.PutResponse{Header: header(5, 2)}), nil},
		{"another revision", answer(&pb.PutResponse{Header: header(5, 2)}), answer(&pb.PutResponse{Header: header(6, 2)}), []string{"PutResponse.header.revision"}},
		{"another term is allowed", answer(&pb.PutResponse{Header: header(5, 2)}), answer(&pb.PutResponse{Header: header(5, 9)}), nil},
		{"no term is not", answer(&pb.PutResponse{Header: header(5, 2)}), answer(&pb.PutResponse{Header: header(5, 0)}), []string{"PutResponse.header.raft_term"}},
		{"no header", answer(&pb.PutResponse{Header: header(5, 2)}), answer(&pb.PutResponse{}), []string{"PutResponse.header"}},
		{"a header too many", answer(&pb.MoveLeaderResponse{}), answer(&pb.MoveLeaderResponse{Header: header(1, 1)}), []string{"MoveLeaderResponse.header"}},
		{"a lease inside a list", answer(&pb.RangeResponse{Kvs: []*mvccpb.KeyValue{kv(1), kv(2)}}), answer(&pb.RangeResponse{Kvs: []*mvccpb.KeyValue{kv(1), kv(3)}}), []string{"RangeResponse.kvs[1].lease"}},
		{"a shorter list", answer(&pb.RangeResponse{Kvs: []*mvccpb.KeyValue{kv(1), kv(2)}}), answer(&pb.RangeResponse{Kvs: []*mvccpb.KeyValue{kv(1)}}), []string{"RangeResponse.kvs (length)"}},
		{"two in another order", answer(&pb.RangeResponse{Kvs: []*mvccpb.KeyValue{kv(1), kv(2)}}), answer(&pb.RangeResponse{Kvs: []*mvccpb.KeyValue{kv(2), kv(1)}}), []string{"RangeResponse.kvs[0].lease", "RangeResponse.kvs[1].lease"}},
		{"alarms are a set", answer(&pb.AlarmResponse{Alarms: []*pb.AlarmMember{alarm(1), alarm(2)}}), answer(&pb.AlarmResponse{Alarms: []*pb.AlarmMember{alarm(2), alarm(1)}}), nil},
		{"of the same elements", answer(&pb.AlarmResponse{Alarms: []*pb.AlarmMember{alarm(1), alarm(2)}}), answer(&pb.AlarmResponse{Alarms: []*pb.AlarmMember{alarm(2), alarm(3)}}), []string{"AlarmResponse.alarms[0].memberID", "AlarmResponse.alarms[1].memberID"}},
		{"remaining time may pass", answer(&pb.LeaseTimeToLiveResponse{TTL: 100}), answer(&pb.LeaseTimeToLiveResponse{TTL: 98}), nil},
		{"but not so far", answer(&pb.LeaseTimeToLiveResponse{TTL: 100}), answer(&pb.LeaseTimeToLiveResponse{TTL: 90}), []string{"LeaseTimeToLiveResponse.TTL"}},
		{"nor from known to unknown", answer(&pb.LeaseTimeToLiveResponse{TTL: 0}), answer(&pb.LeaseTimeToLiveResponse{TTL: -1}), []string{"LeaseTimeToLiveResponse.TTL"}},
		{"another branch of a union", answer(&pb.ResponseOp{Response: &pb.ResponseOp_ResponsePut{ResponsePut: &pb.PutResponse{}}}), answer(&pb.ResponseOp{Response: &pb.ResponseOp_ResponseRange{ResponseRange: &pb.RangeResponse{}}}), []string{"ResponseOp.response_range", "ResponseOp.response_put"}},
		{"a field nobody knows", answer(&pb.PutResponse{}), answer(withUnknown(&pb.PutResponse{})), []string{"PutResponse (unknown fields)"}},
		{"another kind of message", answer(&pb.PutResponse{}), answer(&pb.RangeResponse{}), []string{"message"}},
		{"a message less", answer(&pb.PutResponse{}), answer(), []string{"messages"}},
		{"another code", Answer{Code: codes.OutOfRange, Text: "x"}, Answer{Code: codes.Unknown, Text: "x"}, []string{"code"}},
		{"another text", Answer{Code: codes.OutOfRange, Text: "x"}, Answer{Code: codes.OutOfRange, Text: "y"}, []string{"error text"}},
		{"another status", Answer{Fields: map[string]string{"status": "200", "body": "x"}}, Answer{Fields: map[string]string{"status": "503", "body": "x"}}, []string{"status"}},
		{"a header less", Answer{Fields: map[string]string{"header Allow": "GET"}}, Answer{}, []string{"header Allow"}},
		{"a broken promise", answer(), Answer{Broken: []string{"gap"}}, []string{"promise"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var got []string
			for _, d := range NewComparer().Answers(test.want, test.got) {
				got = append(got, d.Path)
			}
			if !slices.Equal(got, test.paths) {
				t.Errorf("got differences at %q, want %q", got, test.paths)
			}
		})
	}
}

// TestWatchPromises feeds a stream what a broken server would send.
func TestWatchPromises(t *testing.T) {
	created := func(rev int64) *pb.WatchResponse { return &pb.WatchResponse{Header: header(rev, 1), Created: true} }
	events := func(headerRev int64, revs ...int64) *pb.WatchResponse {
		r := &pb.WatchResponse{Header: header(headerRev, 1)}
		for _, rev := range revs {
			r.Events = append(r.Events, &mvccpb.Event{Kv: &mvccpb.KeyValue{ModRevision: rev}})
		}
		return r
	}
	fragment := func(r *pb.WatchResponse) *pb.WatchResponse { r.Fragment = true; return r }
	progress := func(rev int64) *pb.WatchResponse { return &pb.WatchResponse{Header: header(rev, 1), WatchId: -1} }
	tests := []struct {
		name   string
		sent   []*pb.WatchResponse
		broken int
	}{
		{"all is well", []*pb.WatchResponse{created(1), events(3, 2, 2, 3), events(4, 4), progress(4), events(5, 5)}, 0},
		{"events before creation", []*pb.WatchResponse{events(2, 2)}, 1},
		{"backwards", []*pb.WatchResponse{created(1), events(3, 3), events(3, 2)}, 1},
		{"one revision in two responses", []*pb.WatchResponse{created(1), events(2, 2), events(2, 2)}, 1},
		{"one revision in two fragments", []*pb.WatchResponse{created(1), fragment(events(2, 2)), events(2, 2)}, 0},
		{"progress between fragments", []*pb.WatchResponse{created(1), fragment(events(2, 2)), progress(1)}, 1},
		{"progress overtakes", []*pb.WatchResponse{created(1), progress(3), events(3, 3)}, 1},
		{"header below its events", []*pb.WatchResponse{created(1), events(2, 3)}, 1},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s := &watchStream{watchers: map[int64]*watcherLog{}, logs: map[Watcher]*watcherLog{}}
			for _, r := range test.sent {
				s.take(r)
			}
			if len(s.broken) != test.broken {
				t.Errorf("got %d broken promises, want %d: %q", len(s.broken), test.broken, s.broken)
			}
		})
	}
}
