package e2e

import (
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"limpet/e2e/side"
)

// Short forms for the steps that stories are made of.

func list(r *pb.RangeRequest) side.Call {
	return side.Call{Method: "/etcdserverpb.KV/Range", Request: r}
}

func get(key string) side.Call { return list(&pb.RangeRequest{Key: []byte(key)}) }

func all() side.Call { return list(&pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}}) }

func put(key, value string) side.Call {
	return side.Call{Method: "/etcdserverpb.KV/Put", Request: &pb.PutRequest{Key: []byte(key), Value: []byte(value)}}
}

func putLeased(key string, lease int64) side.Call {
	return side.Call{Method: "/etcdserverpb.KV/Put", Request: &pb.PutRequest{Key: []byte(key), Lease: lease}}
}

func remove(key, end string) side.Call {
	return side.Call{Method: "/etcdserverpb.KV/DeleteRange", Request: &pb.DeleteRangeRequest{Key: []byte(key), RangeEnd: []byte(end), PrevKv: true}}
}

func txn(t *pb.TxnRequest) side.Call {
	return side.Call{Method: "/etcdserverpb.KV/Txn", Request: t}
}

func putOp(key, value string) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte(key), Value: []byte(value)}}}
}

func compact(rev int64) side.Call {
	return side.Call{Method: "/etcdserverpb.KV/Compact", Request: &pb.CompactionRequest{Revision: rev, Physical: true}}
}

func grant(id, ttl int64) side.Call {
	return side.Call{Method: "/etcdserverpb.Lease/LeaseGrant", Request: &pb.LeaseGrantRequest{ID: id, TTL: ttl}}
}

func revoke(id int64) side.Call {
	return side.Call{Method: "/etcdserverpb.Lease/LeaseRevoke", Request: &pb.LeaseRevokeRequest{ID: id}}
}

func timeToLive(id int64) side.Call {
	return side.Call{Method: "/etcdserverpb.Lease/LeaseTimeToLive", Request: &pb.LeaseTimeToLiveRequest{ID: id, Keys: true}}
}

func leases() side.Call {
	return side.Call{Method: "/etcdserverpb.Lease/LeaseLeases", Request: &pb.LeaseLeasesRequest{}}
}

func hashKV(rev int64) side.Call {
	return side.Call{Method: "/etcdserverpb.Maintenance/HashKV", Request: &pb.HashKVRequest{Revision: rev}}
}

func status() side.Call {
	return side.Call{Method: "/etcdserverpb.Maintenance/Status", Request: &pb.StatusRequest{}}
}

func defragment() side.Call {
	return side.Call{Method: "/etcdserverpb.Maintenance/Defragment", Request: &pb.DefragmentRequest{}}
}

func alarm(action pb.AlarmRequest_AlarmAction, typ pb.AlarmType) side.Call {
	return side.Call{
		Method:  "/etcdserverpb.Maintenance/Alarm",
		Request: &pb.AlarmRequest{Action: action, Alarm: typ, MemberID: side.NeutralMember},
	}
}

// watchAll opens stream handle with one watcher of everything from start on.
func watchAll(handle int, start int64) []side.Step {
	return []side.Step{
		side.WatchOpen{Handle: handle},
		side.WatchCreate{Handle: handle, Request: &pb.WatchCreateRequest{Key: []byte{0}, RangeEnd: []byte{0}, StartRevision: start, PrevKv: true}},
	}
}

// events waits for the first watcher on a stream to have had n events.
func events(handle, n int) side.WatchSync {
	return side.WatchSync{Expect: []side.Expectation{{Handle: handle, Events: n}}}
}
