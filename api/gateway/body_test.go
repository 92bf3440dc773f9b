package gateway

import (
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
)

// Every build writes an answer alike, alone and in a stream; half of them fail here
// if protobuf's spaces are left in.
func TestNoSpaces(t *testing.T) {
	resp := &pb.RangeResponse{Header: &pb.ResponseHeader{Revision: 7, RaftTerm: 2}, Kvs: []*mvccpb.KeyValue{{Key: []byte("k"), Value: []byte("a, b")}}, Count: 1}
	const want = `{"header":{"revision":"7","raft_term":"2"},"kvs":[{"key":"aw==","value":"YSwgYg=="}],"count":"1"}`
	for _, row := range []struct {
		v    any
		want string
	}{{resp, want}, {map[string]any{"result": resp}, `{"result":` + want + `}`}} {
		if got, err := newJSON(1).Marshal(row.v); err != nil || string(got) != row.want {
			t.Errorf("got %s, %v; want %s", got, err, row.want)
		}
	}
}
