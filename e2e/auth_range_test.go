package e2e

import (
	"testing"

	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"limpet/e2e/side"
)

// grantedSets are what a role may have, each as key and end; what it may do there turns with the
// place in the list.
var grantedSets = [][][2]string{
	{{"b", ""}},
	{{"b", "c"}, {"c", "d"}},
	{{"b", "c"}, {"c\x00", "d"}, {"c", ""}},
	{{"a", "c"}, {"b", "d"}, {"e", "\x00"}},
	{{"b", ""}, {"b\x00", "c"}},
	{{"b", "d"}, {"a", "b"}, {"bb", "c"}, {"d", "\x00"}},
	{{"\x00", "\x00"}},
	{{"a", "b"}, {"a", "d"}, {"a", "c"}, {"a", ""}},
	{{"\xff", "\x00"}, {"\x00", "b"}},
	{{"b", "c"}, {"c", "d"}, {"d", "e"}, {"a", "b"}, {"e", "\x00"}, {"\x00", "a"}},
}

// TestAuthRanges asks for ranges of all kinds under rights of all kinds: single keys, ranges that
// only several rights cover together, with a gap and without, and open ends. Ends before beginnings are
// left out: such a range holds no key, and whether etcd permits it depends on the order in which the
// rights were granted.
func TestAuthRanges(t *testing.T) {
	t.Parallel()
	s := newStage(t, 1)
	s.all("", userAdd("root", "pw"), grantRole("root", "root"), userAdd("u", "pw"))
	for _, key := range []string{"a", "b", "bb", "c", "d", "e"} {
		s.do("", put(key, key))
	}
	s.do("", authEnable())
	s.do("", side.Login{Name: "root", Password: "pw", Token: "<root>"})
	s.do("", side.Login{Name: "u", Password: "pw", Token: "<u>"})
	for i, set := range grantedSets {
		s.all("<root>", roleAdd("r1"), roleAdd("r2"), grantRole("u", "r1"), grantRole("u", "r2"))
		for j, span := range set {
			role := []string{"r1", "r2"}[(i+j)%2]
			s.do("<root>", permit(role, []authpb.Permission_Type{mayBoth, mayRead, mayBoth, mayWrite}[(i/2+j)%4], span[0], span[1]))
		}
		askSpans(s)
		last := set[len(set)-1]
		s.all("<root>", forbid("r1", last[0], last[1]), forbid("r2", last[0], last[1]))
		askSpans(s)
		s.all("<root>", roleDelete("r1"), roleGet("r2"), revokeRole("u", "r2"), roleDelete("r2"))
	}
}

// askSpans reads each span, and writes it in the branch of a transaction that is not taken, so that the
// keys stay.
func askSpans(s *stage) {
	for _, key := range []string{"\x00", "a", "b", "bb", "c", "e", "\xff"} {
		for _, end := range []string{"", "\x00", "\x00\x00", "a", "b\x00", "c", "c\x00", "d", "f", "\xff\xff"} {
			if end > "\x00" && end <= key {
				continue
			}
			s.ask("<u>", list(&pb.RangeRequest{Key: []byte(key), RangeEnd: []byte(end), KeysOnly: true}))
			wipe := &pb.DeleteRangeRequest{Key: []byte(key), RangeEnd: []byte(end)}
			op := &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: wipe}}
			s.ask("<u>", txn(&pb.TxnRequest{Failure: []*pb.RequestOp{op}}))
		}
	}
}
