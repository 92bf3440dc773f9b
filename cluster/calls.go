package cluster

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"limpet/peer"
	"limpet/raftfsm"
	"limpet/txn"
)

// Services on the peer port. Ask is open to everybody with the token.
const (
	askService    = "limpet.Ask"
	memberService = "limpet.Member"
	askPath       = "/" + askService + "/"
	memberPath    = "/" + memberService + "/"
)

// Description is what a member tells about itself and its cluster.
type Description struct {
	peer.Hello
	Forming   bool          `json:"forming"`
	Expect    int           `json:"expect"`
	Index     uint64        `json:"index"` // last of its log
	Term      uint64        `json:"term"`
	LastTerm  uint64        `json:"last_term"` // of that entry
	Leader    uint64        `json:"leader"`
	Recovered uint64        `json:"recovered"`
	Members   []*txn.Member `json:"members"`
	Stage     Stage         `json:"stage,omitempty"`
	Applied   uint64        `json:"applied"`
	SyncMicro int64         `json:"sync_us"` // one write of the log in a hundred takes so long or longer
}

// Settled reports whether the member has state: something may have been agreed
// on where it is.
func (d *Description) Settled() bool { return d.Cluster != 0 && (!d.Forming || d.Index > 1) }

// Services registers what members ask each other. lead are further methods of
// the leader, by name.
func (l *Local) Services(lead []grpc.MethodDesc) func(grpc.ServiceRegistrar) {
	return func(r grpc.ServiceRegistrar) {
		r.RegisterService(&grpc.ServiceDesc{ServiceName: askService, HandlerType: (*any)(nil), Methods: []grpc.MethodDesc{
			peer.Unary(askService, "Describe", l.serveDescribe),
			peer.Unary(askService, "Join", l.serveJoin),
			peer.Unary(askService, "Form", l.serveForm),
		}}, l)
		r.RegisterService(&grpc.ServiceDesc{ServiceName: memberService, HandlerType: (*any)(nil), Methods: append(lead,
			peer.Unary(memberService, "Ping", l.servePing),
			peer.Unary(memberService, "Join", l.serveJoin),
			peer.Unary(memberService, "Report", l.serveReport),
			peer.Unary(memberService, "Propose", l.servePropose),
			peer.Unary(memberService, "ReadIndex", l.serveReadIndex),
		)}, l)
	}
}

// Lead describes a method that only the leader answers.
func Lead[Req any, PReq interface {
	*Req
	proto.Message
}, Resp proto.Message](name string, fn func(context.Context, PReq) (Resp, error)) grpc.MethodDesc {
	return peer.Unary(memberService, name, func(ctx context.Context, r PReq) (Resp, error) {
		resp, err := fn(ctx, r)
		return resp, toWire(err)
	})
}

// wireErrors is the one table of what members tell each other by code.
var wireErrors = []struct {
	err  error
	text string
}{
	{raftfsm.ErrNotLeader, "limpet: not the leader"},
	{raftfsm.ErrNoLeader, "limpet: no leader"},
	{raftfsm.ErrLeaderChanged, "limpet: leader changed"},
	{raftfsm.ErrTooManyRequests, "limpet: too many requests"},
	{raftfsm.ErrLogFailed, "limpet: the log could not be written"},
	{raftfsm.ErrStopped, "limpet: stopped"},
}

func toWire(err error) error {
	for _, e := range wireErrors {
		if errors.Is(err, e.err) {
			return status.Error(codes.Aborted, e.text)
		}
	}
	return err
}

func fromWire(err error) error {
	if s, ok := status.FromError(err); ok && s.Code() == codes.Aborted {
		for _, e := range wireErrors {
			if s.Message() == e.text {
				return e.err
			}
		}
	}
	return err
}

// plain is the text of an error without gRPC's decoration.
func plain(err error) string {
	if s, ok := status.FromError(err); ok {
		return s.Message()
	}
	return err.Error()
}

// CallLeader has the leader do one of its methods.
func (l *Local) CallLeader(ctx context.Context, method string, req, resp proto.Message) error {
	n := l.node.Load()
	if n == nil {
		return raftfsm.ErrNoLeader
	}
	leader := n.Leader()
	if leader == 0 {
		return raftfsm.ErrNoLeader
	}
	return fromWire(l.port.Invoke(ctx, leader, memberPath+method, req, resp))
}

// Propose implements raftfsm.Peers.
func (l *Local) Propose(ctx context.Context, leader, term uint64, entry []byte) error {
	msg := make([]byte, 8, 8+len(entry))
	binary.BigEndian.PutUint64(msg, term)
	return fromWire(l.port.Invoke(ctx, leader, memberPath+"Propose", wrapperspb.Bytes(append(msg, entry...)), new(emptypb.Empty)))
}

func (l *Local) servePropose(ctx context.Context, r *wrapperspb.BytesValue) (*emptypb.Empty, error) {
	n := l.node.Load()
	if n == nil || len(r.Value) < 8 {
		return nil, toWire(raftfsm.ErrNotLeader)
	}
	err := n.Accept(ctx, binary.BigEndian.Uint64(r.Value), r.Value[8:])
	return new(emptypb.Empty), toWire(err)
}

// ReadIndex implements raftfsm.Peers.
func (l *Local) ReadIndex(ctx context.Context, leader uint64) (uint64, error) {
	resp := new(wrapperspb.UInt64Value)
	err := l.port.Invoke(ctx, leader, memberPath+"ReadIndex", new(emptypb.Empty), resp)
	return resp.Value, fromWire(err)
}

func (l *Local) serveReadIndex(ctx context.Context, _ *emptypb.Empty) (*wrapperspb.UInt64Value, error) {
	n := l.node.Load()
	if n == nil {
		return nil, toWire(raftfsm.ErrNotLeader)
	}
	index, err := n.ConfirmedIndex(ctx)
	return wrapperspb.UInt64(index), toWire(err)
}

func (l *Local) servePing(context.Context, *emptypb.Empty) (*emptypb.Empty, error) {
	if l.node.Load() == nil {
		return nil, toWire(raftfsm.ErrStopped)
	}
	return new(emptypb.Empty), nil
}

// ask puts a question whose form is JSON.
func (l *Local) ask(ctx context.Context, addr, method string, req, resp any) error {
	data, err := json.Marshal(req)
	if err != nil {
		return err
	}
	out := new(wrapperspb.BytesValue)
	if _, err := l.port.AskAt(ctx, addr, askPath+method, wrapperspb.Bytes(data), out); err != nil {
		return err
	}
	return json.Unmarshal(out.Value, resp)
}

func answer(v any) (*wrapperspb.BytesValue, error) {
	data, err := json.Marshal(v)
	return wrapperspb.Bytes(data), err
}

func (l *Local) describe(ctx context.Context, addr string) (*Description, error) {
	d := new(Description)
	if err := l.ask(ctx, addr, "Describe", struct{}{}, d); err != nil {
		return nil, err
	}
	return d, nil
}

func (l *Local) serveDescribe(context.Context, *wrapperspb.BytesValue) (*wrapperspb.BytesValue, error) {
	return answer(l.Description())
}

// Description is what this member tells about itself.
func (l *Local) Description() *Description {
	d := &Description{Hello: l.Hello(), Expect: l.cfg.Expect}
	l.mu.Lock()
	d.Forming, d.Stage = l.id.Forming, l.stage
	l.mu.Unlock()
	if n := l.node.Load(); n != nil {
		st, ms := n.Status(), n.Membership()
		d.Index, d.Term, d.Leader = st.LastIndex, st.Term, st.Leader
		d.Recovered, d.Members = ms.Recovered, ms.Members
		d.LastTerm = n.LastTerm()
		d.Applied, d.SyncMicro = st.Applied, st.Sync.Microseconds()
	}
	return d
}
