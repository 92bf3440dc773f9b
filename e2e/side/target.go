package side

import (
	"context"
	"fmt"
	"math"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"

	"limpet/e2e/proc"
)

// stepDeadline ends every request and every wait for a watch response.
const stepDeadline = 20 * time.Second

// Target is one of the two servers, with its connection, its names and its open watch streams.
type Target struct {
	Label  string
	Server *proc.Server
	Conn   *grpc.ClientConn
	Names  *Names // shared by the members of a Cluster

	known   bool       // its own names are bound
	number  int        // of the member in a Cluster, from 1 on; 0 if it is alone
	mu      sync.Mutex // guards streams
	streams map[int]*watchStream
}

// NewTarget connects to a running server and learns its names. It ends with the test.
func NewTarget(t testing.TB, label string, server *proc.Server) *Target {
	t.Helper()
	target := &Target{Label: label, Server: server, Names: NewNames(), streams: map[int]*watchStream{}}
	target.Connect(t)
	t.Cleanup(target.Disconnect)
	return target
}

// Connect dials the server, again if need be, and learns the names it uses the first time: nobody but
// a user may ask for them once auth is on.
func (t *Target) Connect(tb testing.TB) {
	tb.Helper()
	t.dial(tb, t.Server.Client, insecure.NewCredentials())
	if t.known {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), stepDeadline)
	defer cancel()
	status, err := pb.NewMaintenanceClient(t.Conn).Status(ctx, &pb.StatusRequest{})
	if err != nil {
		tb.Fatalf("first Status of %s: %v", t.Label, err)
	}
	t.known = true
	if t.number != 0 {
		t.Names.Bind(NeutralCluster, status.Header.ClusterId)
		t.Names.Bind(MemberID(t.number), status.Header.MemberId)
		return
	}
	t.Names.BindText("http://client", t.Server.ClientURL())
	t.Names.BindText("http://peer", t.Server.PeerURL())
	t.Names.Bind(NeutralCluster, status.Header.ClusterId)
	t.Names.Bind(NeutralMember, status.Header.MemberId)
}

// Disconnect ends all streams and the connection.
func (t *Target) Disconnect() {
	t.mu.Lock()
	streams := t.streams
	t.streams = map[int]*watchStream{}
	t.mu.Unlock()
	for _, s := range streams {
		s.close()
	}
	t.Conn.Close()
}

func (t *Target) stream(handle int) (*watchStream, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.streams[handle]
	if s == nil {
		return nil, fmt.Errorf("no watch stream %d", handle)
	}
	return s, nil
}

func (t *Target) setStream(handle int, s *watchStream) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.streams[handle] = s
}

func (t *Target) dropStream(handle int) {
	t.mu.Lock()
	s := t.streams[handle]
	delete(t.streams, handle)
	t.mu.Unlock()
	if s != nil {
		s.close()
	}
}

// Over is the same server over another connection, whose streams are its own.
func (t *Target) Over(tb testing.TB, address string, secrets credentials.TransportCredentials) *Target {
	tb.Helper()
	over := &Target{Label: t.Label, Server: t.Server, Names: t.Names, known: true, number: t.number, streams: map[int]*watchStream{}}
	over.dial(tb, address, secrets)
	tb.Cleanup(over.Disconnect)
	return over
}

func (t *Target) dial(tb testing.TB, address string, secrets credentials.TransportCredentials) {
	tb.Helper()
	conn, err := grpc.NewClient("passthrough:///"+address,
		grpc.WithTransportCredentials(secrets),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(math.MaxInt32), grpc.MaxCallSendMsgSize(math.MaxInt32), grpc.WaitForReady(true)),
		grpc.WithDisableRetry())
	if err != nil {
		tb.Fatalf("connect to %s: %v", t.Label, err)
	}
	t.Conn = conn
}
