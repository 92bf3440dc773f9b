package e2e

import (
	"fmt"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"limpet/e2e/side"
)

// peopled adds users of every kind, enables auth, and logs all of them in under <name>. alice may
// read and write a/, and read r/ and write w/; bob has no role; carol has role root; gone is deleted
// after the login.
func peopled(s *stage) {
	s.all("",
		userAdd("root", "pw"), grantRole("root", "root"),
		userAdd("alice", "pw"), roleAdd("app"), permit("app", mayBoth, "a/", "a0"), permit("app", mayRead, "r/", "r0"), grantRole("alice", "app"),
		roleAdd("writer"), permit("writer", mayWrite, "w/", "w0"), grantRole("alice", "writer"), roleAdd("spare"),
		userAdd("bob", "pw"), userAdd("carol", "pw"), grantRole("carol", "root"), userAdd("gone", "pw"),
		put("a/1", "v"), put("r/1", "v"), put("w/1", "v"), put("secret", "v"),
		grant(1, 5000), putLeased("a/leased", 1), grant(2, 5000), putLeased("r/leased", 2), grant(3, 5000), grant(4, 5000), putLeased("w/leased", 4),
		authEnable(),
	)
	for _, name := range []string{"root", "alice", "bob", "carol", "gone"} {
		s.do("", side.Login{Name: name, Password: "pw", Token: "<" + name + ">"})
	}
	s.do("<root>", userDelete("gone"))
}

// callers are the tokens of those whom peopled left, the last one root's own.
var callers = []string{"", "garbage", "garbage.1", "a.b.c", "<gone>", "<bob>", "<alice>", "<carol>", "<root>"}

// TestAuthCalls has every call made by everyone.
func TestAuthCalls(t *testing.T) {
	t.Parallel()
	onStages(t, func(t *testing.T, s *stage) {
		peopled(s)
		for i, token := range callers {
			t.Run("caller "+token, func(t *testing.T) {
				s := s.on(t)
				for _, steps := range [][]side.Step{keyCalls(), txnCalls(), leaseCalls(int64(100 * i)), memberCalls(), maintenanceCalls(), formCalls()} {
					s.all(token, steps...)
				}
				leaderCalls(s, token)
				userCalls(s, token)
				watchCalls(s, token)
			})
		}
	})
}

func keyCalls() []side.Step {
	var steps []side.Step
	for _, key := range []string{"a/1", "r/1", "w/1", "secret", "a/none", "none"} {
		for _, r := range []*pb.RangeRequest{
			{}, {Serializable: true}, {RangeEnd: []byte("a0")}, {RangeEnd: []byte{0}}, {CountOnly: true, Limit: 1}, {Revision: 1 << 40}, {Revision: 1},
			{KeysOnly: true, SortOrder: pb.RangeRequest_DESCEND, SortTarget: pb.RangeRequest_MOD}, {MinModRevision: 3},
		} {
			r.Key = []byte(key)
			steps = append(steps, list(r), side.Stream{Request: r})
		}
		for _, p := range []*pb.PutRequest{
			{Value: []byte("x")}, {PrevKv: true}, {IgnoreValue: true}, {IgnoreLease: true, Value: []byte("y")}, {IgnoreValue: true, PrevKv: true},
			{Lease: 1}, {Lease: 2}, {Lease: 3}, {Lease: 4}, {Lease: 99}, {Lease: 99, PrevKv: true},
		} {
			p.Key = []byte(key)
			steps = append(steps, side.Call{Method: "/etcdserverpb.KV/Put", Request: p})
		}
	}
	for _, d := range []*pb.DeleteRangeRequest{
		{Key: []byte("a/2")}, {Key: []byte("a/2"), PrevKv: true}, {Key: []byte("w/2")}, {Key: []byte("w/2"), PrevKv: true}, {Key: []byte("r/2")}, {Key: []byte("x")},
		{Key: []byte("a/2"), RangeEnd: []byte("a/3")}, {Key: []byte("w/2"), RangeEnd: []byte("w/3"), PrevKv: true}, {Key: []byte("a/2"), RangeEnd: []byte("b")},
		{Key: []byte("x"), RangeEnd: []byte{0}},
	} {
		steps = append(steps, side.Call{Method: "/etcdserverpb.KV/DeleteRange", Request: d})
	}
	return append(steps, compact(3), compact(1<<40), compact(0))
}

func getOp(key string) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: []byte(key)}}}
}

func removeOp(key string, prev bool) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: &pb.DeleteRangeRequest{Key: []byte(key), PrevKv: prev}}}
}

func txnOp(t *pb.TxnRequest) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: t}}
}

// exists compares whether there is a key, from it to end.
func exists(key, end string) *pb.Compare {
	return &pb.Compare{Key: []byte(key), RangeEnd: []byte(end), Target: pb.Compare_VERSION, Result: pb.Compare_GREATER}
}

// txnCalls puts each operation into either branch of a transaction, whichever is taken, and into a
// nested one.
func txnCalls() []side.Step {
	ops := []*pb.RequestOp{
		getOp("a/1"), getOp("r/1"), getOp("w/1"), getOp("secret"), putOp("a/1", "t"), putOp("w/1", "t"), putOp("r/1", "t"), putOp("secret", "t"),
		removeOp("a/9", true), removeOp("w/9", false), removeOp("w/9", true), removeOp("r/9", false),
		{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte("w/1"), PrevKv: true}}},
		{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte("a/1"), Lease: 2}}},
		{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte("a/1"), Lease: 99}}},
	}
	steps := []side.Step{txn(&pb.TxnRequest{}), txn(&pb.TxnRequest{Success: []*pb.RequestOp{txnOp(&pb.TxnRequest{})}})}
	for _, c := range []*pb.Compare{exists("a/1", ""), exists("r/1", "r0"), exists("w/1", ""), exists("secret", ""), exists("a/", "b"), exists("z", "\x00")} {
		steps = append(steps, txn(&pb.TxnRequest{Compare: []*pb.Compare{c}}), txn(&pb.TxnRequest{Compare: []*pb.Compare{c}, Success: []*pb.RequestOp{getOp("a/1")}}))
	}
	yes := []*pb.Compare{exists("a/1", "")}
	for _, op := range ops {
		inner := &pb.TxnRequest{Compare: yes, Failure: []*pb.RequestOp{op}}
		steps = append(steps,
			txn(&pb.TxnRequest{Success: []*pb.RequestOp{op}}),
			txn(&pb.TxnRequest{Failure: []*pb.RequestOp{op}}),
			txn(&pb.TxnRequest{Compare: yes, Success: []*pb.RequestOp{getOp("a/1"), txnOp(inner)}}),
		)
	}
	return steps
}

func leaseCalls(first int64) []side.Step {
	steps := []side.Step{grant(first+100, 5000), grant(first+101, 9_000_000_001), grant(1, 5000), leases()}
	for _, id := range []int64{1, 2, 3, 4, 99} {
		steps = append(steps, timeToLive(id),
			side.Call{Method: "/etcdserverpb.Lease/LeaseTimeToLive", Request: &pb.LeaseTimeToLiveRequest{ID: id}},
			side.KeepAlive{IDs: []int64{id}}, side.KeepAlive{IDs: []int64{99, id, 1}})
	}
	return append(steps, revoke(99), revoke(2), grant(2, 5000), revoke(first+100), side.KeepAlive{})
}

// memberCalls keeps to changes that come to nothing.
func memberCalls() []side.Step {
	return []side.Step{
		memberList(true), memberList(false), memberAdd(0, false), memberAdd(0, false, "nonsense"), memberAdd(0, true, side.PeerURL(1)),
		memberRemove(nobody), memberUpdate(nobody, "http://127.0.0.9:1"), memberUpdate(1, side.PeerURL(1)),
	}
}

func maintenanceCalls() []side.Step {
	downgrade := func(action pb.DowngradeRequest_DowngradeAction, version string) side.Step {
		return side.Call{Method: "/etcdserverpb.Maintenance/Downgrade", Request: &pb.DowngradeRequest{Action: action, Version: version}}
	}
	return []side.Step{
		status(), defragment(), hashKV(0), hashKV(1 << 40), side.Snapshot{}, side.Call{Method: "/etcdserverpb.Maintenance/Hash", Request: &pb.HashRequest{}},
		downgrade(pb.DowngradeRequest_VALIDATE, "x"), downgrade(pb.DowngradeRequest_VALIDATE, "3.6"), downgrade(pb.DowngradeRequest_CANCEL, ""),
		alarmOf(1, pb.AlarmRequest_GET), alarmOf(1, pb.AlarmRequest_ACTIVATE), alarmOf(1, pb.AlarmRequest_GET), put("a/1", "v"), put("secret", "v"),
		grant(3, 1), putLeased("a/1", 99), txn(&pb.TxnRequest{Success: []*pb.RequestOp{putOp("secret", "v")}}), revoke(99),
		userAdd("a", "b"), alarmOf(1, pb.AlarmRequest_DEACTIVATE), userDelete("a"),
		moveLeader(nobody), side.Call{Method: "/grpc.health.v1.Health/Check", Request: &healthpb.HealthCheckRequest{}},
		side.HTTP{Method: "GET", Path: "/health"}, side.HTTP{Method: "GET", Path: "/readyz"}, side.HTTP{Method: "GET", Path: "/version"},
	}
}

// formCalls are requests that are wrong whoever sends them: is the form looked at first, or the
// caller?
func formCalls() []side.Step {
	steps := []side.Step{
		put("", ""), get(""), remove("", ""), txn(&pb.TxnRequest{Compare: []*pb.Compare{{}}}), txn(&pb.TxnRequest{Success: []*pb.RequestOp{{}}}),
		txn(&pb.TxnRequest{Success: []*pb.RequestOp{putOp("a/1", "x"), putOp("a/1", "y")}}), list(&pb.RangeRequest{Key: []byte("x"), SortOrder: 9}),
		put("a/1", strings.Repeat("x", 1600<<10)), put("secret", strings.Repeat("x", 1600<<10)),
		side.Stream{Request: &pb.RangeRequest{}}, side.Stream{Request: &pb.RangeRequest{Key: []byte("x"), SortOrder: 1}},
	}
	for _, p := range []*pb.PutRequest{{Key: []byte("x"), Value: []byte("y"), IgnoreValue: true}, {Key: []byte("x"), Lease: 1, IgnoreLease: true}} {
		steps = append(steps, side.Call{Method: "/etcdserverpb.KV/Put", Request: p})
	}
	wrong := side.Call{Method: "/etcdserverpb.KV/Range", Request: &pb.RangeRequest{Key: []byte("a/1")}}
	for _, header := range []map[string]string{
		{"token": "garbage", "authorization": "<alice>"}, {"authorization": "<alice>"}, {"authorization": "Bearer <alice>"}, {"authorization": "bearer <alice>"},
		{"authorization": "Basic <alice>"}, {"authorization": ""}, {"token": "Bearer <alice>"}, {"token": ""}, {"Token": "<alice>"},
	} {
		wrong.Metadata = header
		steps = append(steps, wrong)
	}
	return steps
}

// leaderCalls are made at the leader: etcd's followers pass them on without saying who calls.
func leaderCalls(s *stage, token string) {
	for _, step := range []side.Step{memberPromote(nobody), memberPromote(1), moveLeader(nobody)} {
		s.At(1).Do(as(token, step))
	}
}

// userCalls goes through the Auth service without leaving a trace.
func userCalls(s *stage, token string) {
	users, roles := []string{"", "root", "alice", "bob", "gone", "none"}, []string{"", "root", "app", "writer", "spare", "none"}
	everyone(s, token, users, roles)
	s.all(token,
		authEnable(), userAdd("", ""), userAdd("alice", "pw"), userAdd("new", "pw"), changePassword("none", "pw"), changePassword("new", "pw"),
		changeHash("alice", "not base64"), grantRole("new", "none"), grantRole("new", "spare"), revokeRole("new", "spare"), revokeRole("new", "spare"),
		userDelete("new"), userDelete("none"), userDelete("root"), roleAdd(""), roleAdd("app"), roleAdd("new"), permit("new", mayRead, "", ""),
		permit("none", mayRead, "a", ""), permit("new", mayRead, "a", ""), forbid("new", "a", "b"), forbid("new", "a", ""), roleDelete("new"), roleDelete("none"),
		roleDelete("root"), revokeRole("root", "root"), authStatus(),
	)
}

// watchCalls creates watchers on one stream; those that are let in are sent what they asked for.
func watchCalls(s *stage, token string) {
	at := s.At(s.size)
	at.Do(as(token, side.WatchOpen{Handle: 1}))
	for i, r := range []*pb.WatchCreateRequest{
		{Key: []byte("a/1")}, {Key: []byte("a/"), RangeEnd: []byte("a0"), PrevKv: true}, {Key: []byte("a/"), RangeEnd: []byte("b")}, {Key: []byte("w/1")}, {Key: []byte("r/1")},
		{}, {RangeEnd: []byte{0}}, {Key: []byte("r/"), RangeEnd: []byte{0}}, {Key: []byte("secret")}, {Key: []byte("secret"), StartRevision: -1},
		{Key: []byte("a/5"), RangeEnd: []byte("a/4")}, {Key: []byte("b"), RangeEnd: []byte("a")}, {Key: []byte("a/1"), WatchId: 70}, {Key: []byte("a/1"), WatchId: 70},
		{Key: []byte("secret"), WatchId: 70}, {Key: []byte("a/1"), StartRevision: 1 << 40}, {Key: []byte("secret"), StartRevision: 2},
	} {
		a := at.Do(side.WatchCreate{Handle: 1, Request: r, Compacted: r.StartRevision == 2})
		if i == 0 && len(a.Messages) == 1 && !a.Messages[0].(*pb.WatchResponse).Canceled {
			s.do("<root>", put("a/1", fmt.Sprint("for ", token)))
			at.Do(events(1, 1))
		}
	}
	at.Do(side.WatchCancel{Handle: 1, ID: 1234})
	at.Do(side.WatchEmpty{Handle: 1})
	at.Do(side.WatchClose{Handle: 1})
}
