package cluster

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"limpet/peer"
	"limpet/raftfsm"
)

// Services on the peer port. Ask is open to everybody with the token.
const (
	askService    = "limpet.Ask"
	memberService = "limpet.Member"
	askPath       = "/" + askService + "/"
	memberPath    = "/" + memberService + "/"
)

// line reaches the other members: it puts questions and calls to them, and
// answers those that need no more than the standing. All methods may be called
// concurrently.
type line struct {
	me   *standing
	port *peer.Port    // set by Use
	used chan struct{} // closed by Use
}

// use tells which port reaches the others; once, before Enter. The port may
// have callers already.
func (l *line) use(p *peer.Port) {
	l.port = p
	close(l.used)
}

// callLeader has the leader do one of its methods.
func (l *line) callLeader(ctx context.Context, method string, req, resp proto.Message) error {
	n := l.me.node.Load()
	if n == nil {
		return raftfsm.ErrNoLeader
	}
	leader := n.Leader()
	if leader == 0 {
		return raftfsm.ErrNoLeader
	}
	return fromWire(l.port.Invoke(ctx, leader, memberPath+method, req, resp))
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

// propose implements raftfsm.Peers.
func (l *line) propose(ctx context.Context, leader, term uint64, entry []byte) error {
	msg := make([]byte, 8, 8+len(entry))
	binary.BigEndian.PutUint64(msg, term)
	return fromWire(l.port.Invoke(ctx, leader, memberPath+"Propose", wrapperspb.Bytes(append(msg, entry...)), new(emptypb.Empty)))
}

func (l *line) servePropose(ctx context.Context, r *wrapperspb.BytesValue) (*emptypb.Empty, error) {
	n := l.me.node.Load()
	if n == nil || len(r.Value) < 8 {
		return nil, toWire(raftfsm.ErrNotLeader)
	}
	err := n.Accept(ctx, binary.BigEndian.Uint64(r.Value), r.Value[8:])
	return new(emptypb.Empty), toWire(err)
}

// readIndex implements raftfsm.Peers.
func (l *line) readIndex(ctx context.Context, leader uint64) (uint64, error) {
	resp := new(wrapperspb.UInt64Value)
	err := l.port.Invoke(ctx, leader, memberPath+"ReadIndex", new(emptypb.Empty), resp)
	return resp.Value, fromWire(err)
}

func (l *line) serveReadIndex(ctx context.Context, _ *emptypb.Empty) (*wrapperspb.UInt64Value, error) {
	n := l.me.node.Load()
	if n == nil {
		return nil, toWire(raftfsm.ErrNotLeader)
	}
	index, err := n.ConfirmedIndex(ctx)
	return wrapperspb.UInt64(index), toWire(err)
}

// hear implements raftfsm.Peers.
func (l *line) hear(ctx context.Context, member, leader, term uint64) (raftfsm.Hearing, error) {
	req := binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, leader), term)
	resp := new(wrapperspb.BytesValue)
	if err := l.port.Invoke(ctx, member, memberPath+"Hear", wrapperspb.Bytes(req), resp); err != nil {
		return raftfsm.Hearing{}, fromWire(err)
	}
	b := resp.Value
	if len(b) < 17 {
		return raftfsm.Hearing{}, fmt.Errorf("an answer of %d bytes, want 17", len(b))
	}
	return raftfsm.Hearing{Silent: b[0] != 0, LastTerm: binary.BigEndian.Uint64(b[1:]), LastIndex: binary.BigEndian.Uint64(b[9:])}, nil
}

func (l *line) serveHear(_ context.Context, r *wrapperspb.BytesValue) (*wrapperspb.BytesValue, error) {
	n := l.me.node.Load()
	if n == nil || len(r.Value) < 16 {
		return nil, toWire(raftfsm.ErrStopped)
	}
	h := n.Hear(binary.BigEndian.Uint64(r.Value), binary.BigEndian.Uint64(r.Value[8:]))
	b := make([]byte, 1, 17)
	if h.Silent {
		b[0] = 1
	}
	b = binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(b, h.LastTerm), h.LastIndex)
	return wrapperspb.Bytes(b), nil
}

func (l *line) servePing(context.Context, *emptypb.Empty) (*emptypb.Empty, error) {
	if l.me.node.Load() == nil {
		return nil, toWire(raftfsm.ErrStopped)
	}
	return new(emptypb.Empty), nil
}

// answers reports whether a member runs.
func (l *line) answers(ctx context.Context, id uint64) bool {
	if id == l.me.Identity().Member {
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	return l.port.Invoke(ctx, id, memberPath+"Ping", new(emptypb.Empty), new(emptypb.Empty)) == nil
}

// away reports whether a member does not answer, asked for half a second: a first
// failure may be that of a connection which was tried before it was there.
func (l *line) away(ctx context.Context, id uint64) bool {
	ctx, cancel := context.WithTimeout(ctx, time.Second/2)
	defer cancel()
	again := time.NewTicker(50 * time.Millisecond)
	defer again.Stop()
	for !l.answers(ctx, id) {
		select {
		case <-ctx.Done():
			return true
		case <-again.C:
		}
	}
	return false
}

// askAround asks those who were seen who they are: whoever does not want us, as
// raft goes on without us, says so, and refused hears it.
func (l *line) askAround(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, alivePatience)
	defer cancel()
	var wg sync.WaitGroup
	for _, addr := range l.me.cfg.Roster.addresses(l.me.Identity().Member) {
		// Owner: this call; ends with the answer or its deadline.
		wg.Go(func() { _, _ = l.port.Who(ctx, addr) })
	}
	wg.Wait()
}

// ask puts a question whose form is JSON.
func (l *line) ask(ctx context.Context, addr, method string, req, resp any) error {
	out, err := l.askRaw(ctx, addr, method, req)
	if err != nil {
		return err
	}
	return json.Unmarshal(out, resp)
}

func (l *line) askRaw(ctx context.Context, addr, method string, req any) ([]byte, error) {
	data, err := json.Marshal(req)
	if err != nil {
		return nil, err
	}
	out := new(wrapperspb.BytesValue)
	_, err = l.port.AskAt(ctx, addr, askPath+method, wrapperspb.Bytes(data), out)
	return out.Value, err
}

func answer(v any) (*wrapperspb.BytesValue, error) {
	data, err := json.Marshal(v)
	return wrapperspb.Bytes(data), err
}

func (l *line) describe(ctx context.Context, addr string) (*Description, error) {
	out, err := l.askRaw(ctx, addr, "Describe", struct{}{})
	if err != nil {
		return nil, err
	}
	return readDescription(out)
}

// readDescription returns no half of a description beside an error.
func readDescription(data []byte) (*Description, error) {
	d := new(Description)
	if err := json.Unmarshal(data, d); err != nil {
		return nil, fmt.Errorf("a description that cannot be read: %w", err)
	}
	if slices.Contains(d.Members, nil) {
		return nil, errors.New("a description with a member that is none")
	}
	return d, nil
}

func (l *line) serveDescribe(context.Context, *wrapperspb.BytesValue) (*wrapperspb.BytesValue, error) {
	return answer(l.me.Description())
}

// describeMember asks a member by ID.
func (l *line) describeMember(ctx context.Context, id uint64) (*Description, error) {
	out := new(wrapperspb.BytesValue)
	if err := l.port.Invoke(ctx, id, askPath+"Describe", wrapperspb.Bytes(nil), out); err != nil {
		return nil, err
	}
	return readDescription(out.Value)
}

// describeAll asks all members what they say of themselves, at once. Who does
// not answer in time is not in the result.
func (l *line) describeAll(ctx context.Context, ms *raftfsm.Membership) map[uint64]*Description {
	ctx, cancel := context.WithTimeout(ctx, reportPatience)
	defer cancel()
	self := l.me.Identity().Member
	said := make(chan *Description, len(ms.Members))
	for _, m := range ms.Members {
		// Owner: this call; ends with ctx.
		go func() {
			if m.ID == self {
				said <- l.me.Description()
				return
			}
			d, _ := l.describeMember(ctx, m.ID)
			said <- d
		}()
	}
	answers := make(map[uint64]*Description)
	for range ms.Members {
		if d := <-said; d != nil {
			answers[d.ID] = d
		}
	}
	return answers
}

// others are whom we see: members with state, and empty ones.
type others struct {
	settled []*Description
	empty   []*Description
	token   bool // somebody answers, with another token
	cert    bool // somebody answers, and certificates do not fit
	silent  bool // somebody closes the connection without an answer
}

// hint is what to say beside that nobody answered.
func (o *others) hint() string {
	switch {
	case o.token:
		return "; somebody there has another token, or only one of you has one"
	case o.cert:
		return "; somebody there and this member do not accept each other's certificates: the log says why"
	case o.silent:
		return "; somebody there closes the connection without an answer: it is stopping, or only one of you has a token"
	}
	return ""
}

// look asks all addresses who they are.
func (l *line) look(ctx context.Context, addrs []string) others {
	self := l.me.Identity().Member
	type result struct {
		d   *Description
		err error
	}
	results := make(chan result, len(addrs))
	for _, addr := range addrs {
		// Owner: this call; ends with the answer or its deadline.
		go func() {
			qctx, cancel := context.WithTimeout(ctx, askFor)
			defer cancel()
			d, err := l.describe(qctx, addr)
			if err != nil {
				l.me.log.Debug("a member could not be asked", "address", addr, "error", err)
			}
			results <- result{d, err}
		}()
	}
	var out others
	known := map[uint64]bool{self: true}
	for range addrs {
		r := <-results
		out.token = out.token || errors.Is(r.err, peer.ErrOtherToken)
		out.cert = out.cert || errors.Is(r.err, peer.ErrCertificate)
		out.silent = out.silent || errors.Is(r.err, peer.ErrSilent)
		d := r.d
		if d == nil || known[d.ID] {
			continue
		}
		known[d.ID] = true
		if d.Settled() {
			out.settled = append(out.settled, d)
		} else {
			out.empty = append(out.empty, d)
		}
	}
	return out
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
