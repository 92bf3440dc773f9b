package side

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"
)

// Members is a call of the Cluster service. Every server picks its own member IDs, and lists the
// members by them: that order is checked, and then undone.
type Members struct {
	Method   string // "MemberList"
	Request  proto.Message
	Metadata map[string]string
	Adds     int // the number of the member that MemberAdd adds; 0: none
}

// Run sends the request.
func (m Members) Run(ctx context.Context, t *Target) Answer {
	a := Call{Method: "/etcdserverpb.Cluster/" + m.Method, Request: m.Request, Metadata: m.Metadata}.Run(ctx, t)
	if len(a.Messages) == 0 {
		return a
	}
	if added, ok := a.Messages[0].(*pb.MemberAddResponse); ok {
		if m.Adds == 0 {
			a.broke("an unexpected member was added")
		} else {
			t.Names.Bind(MemberID(m.Adds), added.Member.GetID())
			t.Names.ToNeutral(added)
		}
	}
	if list, ok := a.Messages[0].(interface{ GetMembers() []*pb.Member }); ok {
		orderMembers(&a, t.Names, list.GetMembers())
	}
	return a
}

// orderMembers checks that the list is by real ID, and makes it one by neutral ID.
func orderMembers(a *Answer, names *Names, members []*pb.Member) {
	if !slices.IsSortedFunc(members, func(x, y *pb.Member) int { return cmp.Compare(names.RealID(x.ID), names.RealID(y.ID)) }) {
		a.broke("members are not listed by ID: %v", members)
	}
	slices.SortFunc(members, func(x, y *pb.Member) int { return cmp.Compare(x.ID, y.ID) })
}

func (m Members) String() string { return fmt.Sprintf("%s %s", m.Method, Short(m.Request)) }
