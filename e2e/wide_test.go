package e2e

import (
	"fmt"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"limpet/e2e/side"
)

// TestWide reads a store with thousands of keys in every way that cuts the answer into parts.
func TestWide(t *testing.T) {
	const keys, perTxn = 6000, 100
	pair := side.NewPair(t, subject())
	for first := 0; first < keys; first += perTxn {
		req := &pb.TxnRequest{}
		for i := first; i < first+perTxn; i++ {
			req.Success = append(req.Success, putOp(wideKey(i*7919%keys), strings.Repeat("x", i%400)))
		}
		pair.Do(txn(req))
	}
	prefix, end := []byte("wide/"), []byte("wide0")
	rev := int64(1 + keys/perTxn)

	t.Run("in pages", func(t *testing.T) {
		for key, more := prefix, true; more; {
			a := pair.On(t).Do(list(&pb.RangeRequest{Key: key, RangeEnd: end, Limit: 500, Revision: rev}))
			page := a.Messages[0].(*pb.RangeResponse)
			key, more = append(page.Kvs[len(page.Kvs)-1].Key, 0), page.More
		}
	})
	t.Run("other ways", func(t *testing.T) {
		for _, r := range []*pb.RangeRequest{
			{Key: prefix, RangeEnd: end},
			{Key: prefix, RangeEnd: end, Revision: rev / 2},
			{Key: prefix, RangeEnd: end, Limit: 777},
			{Key: prefix, RangeEnd: end, KeysOnly: true},
			{Key: prefix, RangeEnd: end, CountOnly: true},
			{Key: prefix, RangeEnd: end, CountOnly: true, Limit: 5, Revision: rev / 2},
			{Key: prefix, RangeEnd: []byte{0}, Limit: keys - 1, Serializable: true},
			{Key: prefix, RangeEnd: []byte{0}, Limit: keys},
			{Key: prefix, RangeEnd: []byte{0}, Limit: keys + 1},
		} {
			pair.On(t).Do(list(r))
			pair.On(t).Do(side.Stream{Request: r})
		}
		for target := range pb.RangeRequest_SortTarget_name {
			for order := range pb.RangeRequest_SortOrder_name {
				pair.On(t).Do(list(&pb.RangeRequest{
					Key: prefix, RangeEnd: end, Limit: 600,
					SortTarget: pb.RangeRequest_SortTarget(target), SortOrder: pb.RangeRequest_SortOrder(order),
				}))
			}
		}
		pair.On(t).Do(list(&pb.RangeRequest{Key: prefix, RangeEnd: end, MinModRevision: rev / 3, MaxCreateRevision: rev / 2, Limit: 50}))
	})
	t.Run("deleted and watched from the start", func(t *testing.T) {
		pair := pair.On(t)
		pair.Do(remove("wide/", "wide/0002"))
		pair.Do(remove("wide/", "wide0"))
		for _, s := range watchAll(1, 2) {
			pair.Do(s)
		}
		pair.Do(events(1, 2*keys))
		pair.Do(hashKV(0))
		pair.Do(compact(rev))
		pair.Do(compact(rev + 2))
		pair.Do(all())
		pair.Do(hashKV(0))
	})
}

func wideKey(i int) string { return fmt.Sprintf("wide/%06d", i) }

// TestFragments watches revisions larger than one message may be, in fragments and whole.
func TestFragments(t *testing.T) {
	pair := side.NewPair(t, subject())
	big := strings.Repeat("x", 700_000)
	for i := range 4 {
		pair.Do(txn(&pb.TxnRequest{Success: []*pb.RequestOp{putOp("a", big+fmt.Sprint(i)), putOp("b", big+fmt.Sprint(i)), putOp("c", "small")}}))
	}
	handle := 0
	for _, fragment := range []bool{false, true} {
		for _, prev := range []bool{false, true} {
			for _, start := range []int64{2, 4, 0} {
				handle++
				pair.Do(side.WatchOpen{Handle: handle})
				pair.Do(side.WatchCreate{Handle: handle, Request: &pb.WatchCreateRequest{
					Key: []byte{0}, RangeEnd: []byte{0}, StartRevision: start, Fragment: fragment, PrevKv: prev,
				}})
			}
		}
	}
	pair.Do(txn(&pb.TxnRequest{Success: []*pb.RequestOp{putOp("a", big), putOp("b", big), putOp("d", "small")}}))
	for h := 1; h <= handle; h++ {
		pair.Do(events(h, []int{15, 9, 3}[(h-1)%3]))
	}
}
