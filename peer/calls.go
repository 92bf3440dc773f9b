package peer

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	grpcpeer "google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// AskPrefix begins the full method names that are open to everybody with the
// token.
const AskPrefix = "/limpet.Ask/"

// maxMessage bounds one message: an entry of the log with the largest request.
const maxMessage = 64 << 20

func newServer(register func(grpc.ServiceRegistrar)) *grpc.Server {
	s := grpc.NewServer(
		grpc.Creds(greeted{insecure.NewCredentials()}),
		grpc.MaxRecvMsgSize(maxMessage),
		grpc.MaxSendMsgSize(math.MaxInt32),
		grpc.UnaryInterceptor(onlyMembers),
		grpc.WaitForHandlers(true), // what they use may be closed once the port is
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 10 * time.Second, Timeout: 5 * time.Second}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: time.Second, PermitWithoutStream: true}),
	)
	register(s)
	return s
}

// onlyMembers keeps those who may only ask to asking.
func onlyMembers(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	who, ok := From(ctx)
	if !ok || who.Purpose != Call && !strings.HasPrefix(info.FullMethod, AskPrefix) {
		return nil, status.Error(codes.PermissionDenied, "limpet: for members only")
	}
	return handler(ctx, req)
}

// From is the caller of a call.
func From(ctx context.Context) (Hello, bool) {
	p, ok := grpcpeer.FromContext(ctx)
	if !ok {
		return Hello{}, false
	}
	a, ok := p.AuthInfo.(caller)
	return a.Hello, ok
}

// caller is what the greeting has shown, as gRPC hands it on.
type caller struct{ Hello }

// AuthType implements credentials.AuthInfo.
func (caller) AuthType() string { return "limpet" }

// greeted are credentials for connections that were greeted already.
type greeted struct {
	credentials.TransportCredentials
}

// ServerHandshake implements credentials.TransportCredentials.
func (greeted) ServerHandshake(c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	g, ok := c.(*conn)
	if !ok {
		return nil, nil, errors.New("peer: a connection without a greeting")
	}
	return c, caller{g.who}, nil
}

// Clone implements credentials.TransportCredentials.
func (g greeted) Clone() credentials.TransportCredentials {
	return greeted{g.TransportCredentials.Clone()}
}

// kept is the connection that is kept to call a member.
type kept struct {
	conn  *grpc.ClientConn
	calls int  // under way; guarded by port.mu
	gone  bool // nobody new may use it; guarded by port.mu
}

// Invoke calls method of member id.
func (p *Port) Invoke(ctx context.Context, id uint64, method string, req, resp proto.Message) error {
	k, err := p.hold(id)
	if err != nil {
		return err
	}
	defer p.release(k)
	return k.conn.Invoke(ctx, method, req, resp)
}

// hold is the kept connection to a member, for one call; release ends it.
func (p *Port) hold(id uint64) (*kept, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, net.ErrClosed
	}
	k := p.callers[id]
	if k == nil {
		conn, err := client(func(ctx context.Context, _ string) (net.Conn, error) {
			c, _, err := p.dial(ctx, Call, id, p.cfg.Where(id))
			return c, err
		})
		if err != nil {
			return nil, err
		}
		k = &kept{conn: conn}
		p.callers[id] = k
	}
	k.calls++
	return k, nil
}

func (p *Port) release(k *kept) {
	p.mu.Lock()
	k.calls--
	last := k.gone && k.calls == 0
	p.mu.Unlock()
	if last {
		_ = k.conn.Close()
	}
}

// Forget forgets a member that is none any more. The kept connection closes when
// the calls under way have their answers: the removal itself may be one of them.
func (p *Port) Forget(id uint64) {
	p.mu.Lock()
	k := p.callers[id]
	delete(p.callers, id)
	delete(p.links, id)
	idle := false
	if k != nil {
		k.gone, idle = true, k.calls == 0
	}
	p.mu.Unlock()
	if idle {
		_ = k.conn.Close()
	}
}

// AskAt calls a method that begins with AskPrefix, of whoever is at addr, and
// returns who that is.
func (p *Port) AskAt(ctx context.Context, addr, method string, req, resp proto.Message) (*Answer, error) {
	c, answer, err := p.dial(ctx, Ask, 0, []string{addr})
	if err != nil {
		return nil, err
	}
	used := false
	conn, err := client(func(context.Context, string) (net.Conn, error) {
		if used {
			return nil, fmt.Errorf("%s: the connection broke", addr)
		}
		used = true
		return c, nil
	})
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	defer func() { _ = conn.Close(); _ = c.Close() }()
	return answer, conn.Invoke(ctx, method, req, resp)
}

func client(dial func(context.Context, string) (net.Conn, error)) (*grpc.ClientConn, error) {
	return grpc.NewClient("passthrough:///member",
		grpc.WithContextDialer(dial),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(math.MaxInt32), grpc.MaxCallSendMsgSize(math.MaxInt32)),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 5 * time.Second, PermitWithoutStream: false}),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
			MinConnectTimeout: greetPatience,
		}),
	)
}

// Unary describes one method for a grpc.ServiceDesc.
func Unary[Req any, PReq interface {
	*Req
	proto.Message
}, Resp proto.Message](service, name string, fn func(context.Context, PReq) (Resp, error)) grpc.MethodDesc {
	full := "/" + service + "/" + name
	return grpc.MethodDesc{
		MethodName: name,
		Handler: func(srv any, ctx context.Context, dec func(any) error, intercept grpc.UnaryServerInterceptor) (any, error) {
			req := PReq(new(Req))
			if err := dec(req); err != nil {
				return nil, err
			}
			call := func(ctx context.Context, r any) (any, error) { return fn(ctx, r.(PReq)) }
			return intercept(ctx, req, &grpc.UnaryServerInfo{Server: srv, FullMethod: full}, call)
		},
	}
}
