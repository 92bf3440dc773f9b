package server

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"limpet/api/recipepb"
)

// wantStatus checks code and text of a call's error.
func wantStatus(t testing.TB, what string, err error, code codes.Code, text string) {
	t.Helper()
	if s := status.Convert(err); s.Code() != code || s.Message() != text {
		t.Errorf("%s: got %v %q, want %v %q", what, s.Code(), s.Message(), code, text)
	}
}

// queued is how many stand in line under name, as m knows.
func (m *member) queued(name string) int64 {
	resp, err := m.kv.Range(context.Background(), &pb.RangeRequest{Key: []byte(name + "/"), RangeEnd: []byte(name + "0"), CountOnly: true})
	if err != nil {
		return -1 // asked again
	}
	return resp.Count
}

func (m *member) wantQueued(name string, n int64) {
	m.t.Helper()
	eventually(m.t, fmt.Sprintf("%d stand in line under %s", n, name), func() bool { return m.queued(name) == n })
}

// waiter is a call that waits for its turn.
type waiter struct {
	key  []byte
	err  error
	done chan struct{}
	stop context.CancelFunc // has the client go away
}

// lock begins to wait for a lock.
func (m *member) lock(ctx context.Context, name string, lease int64) *waiter {
	ctx, stop := context.WithCancel(ctx)
	m.t.Cleanup(stop)
	w := &waiter{done: make(chan struct{}), stop: stop}
	// Owner: the waiter; ends with the call, at the latest with the test.
	go func() {
		defer close(w.done)
		resp, err := recipepb.NewLockClient(m.conn).Lock(ctx, &recipepb.LockRequest{Name: []byte(name), Lease: lease})
		w.key, w.err = resp.GetKey(), err
	}()
	return w
}

// wait waits for the call's end and returns the key.
func (w *waiter) wait(t testing.TB) []byte {
	t.Helper()
	eventually(t, "the call ends", func() bool {
		select {
		case <-w.done:
			return true
		default:
			return false
		}
	})
	return w.key
}

func (w *waiter) waits() bool {
	select {
	case <-w.done:
		return false
	default:
		return true
	}
}

func (m *member) unlock(key []byte) {
	m.t.Helper()
	if _, err := recipepb.NewLockClient(m.conn).Unlock(m.t.Context(), &recipepb.UnlockRequest{Key: key}); err != nil {
		m.t.Fatal(err)
	}
}

func (m *member) grant(id int64) int64 {
	m.t.Helper()
	resp, err := pb.NewLeaseClient(m.conn).LeaseGrant(m.t.Context(), &pb.LeaseGrantRequest{ID: id, TTL: 1000})
	if err != nil {
		m.t.Fatal(err)
	}
	return resp.ID
}

// Whoever came first has the lock first, whichever members they ask.
func TestLockIsPassedOn(t *testing.T) {
	members := startThree(t)
	first := members[0].lock(t.Context(), "work", 0)
	if key := first.wait(t); !strings.HasPrefix(string(key), "work/") {
		t.Fatalf("got key %q and %v, want one under work/", key, first.err)
	}
	second := members[1].lock(t.Context(), "work", members[1].grant(0xbeef))
	members[0].wantQueued("work", 2)
	third := members[2].lock(t.Context(), "work", 0)
	members[0].wantQueued("work", 3)
	if !second.waits() || !third.waits() {
		t.Errorf("locks of others: got %v and %v, want them to wait", second, third)
	}
	members[2].unlock(first.key)
	if key := second.wait(t); string(key) != "work/beef" {
		t.Errorf("second: got key %q and %v, want work/beef", key, second.err)
	}
	if !third.waits() {
		t.Errorf("third: got %q, want it to wait for the second", third.key)
	}
	again := members[0].lock(t.Context(), "work", 0xbeef)
	if key := again.wait(t); string(key) != "work/beef" {
		t.Errorf("the second once more: got key %q and %v, want work/beef", key, again.err)
	}
	members[0].unlock(second.key)
	if third.wait(t); third.err != nil {
		t.Errorf("third: %v", third.err)
	}
}

// Who does not wait any more has no place in the line, and nobody waits for it.
func TestLockOfAClientThatLeft(t *testing.T) {
	m := start(t, newConfig(t))
	first := m.lock(t.Context(), "work", 0)
	first.wait(t)
	second := m.lock(t.Context(), "work", 0)
	m.wantQueued("work", 2)
	third := m.lock(t.Context(), "work", 0)
	m.wantQueued("work", 3)
	second.stop()
	m.wantQueued("work", 2)
	second.wait(t)
	wantStatus(t, "the call that was given up", second.err, codes.Canceled, "context canceled")
	m.unlock(first.key)
	if third.wait(t); third.err != nil {
		t.Errorf("third: %v", third.err)
	}
	eventually(t, "no watch stream is left", func() bool { return m.hub.Stats().Streams == 0 })
}

// A lease that ends while its owner waits costs the lock, and a compaction does
// not.
func TestLockLease(t *testing.T) {
	m := start(t, newConfig(t))
	first := m.lock(t.Context(), "work", 0)
	first.wait(t)
	second := m.lock(t.Context(), "work", m.grant(2))
	m.wantQueued("work", 2)
	third := m.lock(t.Context(), "work", 0)
	m.wantQueued("work", 3)
	if _, err := pb.NewLeaseClient(m.conn).LeaseRevoke(t.Context(), &pb.LeaseRevokeRequest{ID: 2}); err != nil {
		t.Fatal(err)
	}
	rev := m.put("other", "x")
	if _, err := m.kv.Compact(t.Context(), &pb.CompactionRequest{Revision: rev}); err != nil {
		t.Fatal(err)
	}
	m.unlock(first.key)
	if third.wait(t); third.err != nil {
		t.Errorf("third: %v", third.err)
	}
	second.wait(t)
	wantStatus(t, "whose lease is gone", second.err, codes.Unknown, "mutex: session is expired")
	_, err := recipepb.NewLockClient(m.conn).Lock(t.Context(), &recipepb.LockRequest{Name: []byte("work"), Lease: 2})
	wantStatus(t, "a lease that is gone before", err, codes.Unknown, "etcdserver: requested lease not found")
}

// A member that stops tells those who wait.
func TestStopEndsWaiters(t *testing.T) {
	m := start(t, newConfig(t))
	first := m.lock(t.Context(), "work", 0)
	first.wait(t)
	second := m.lock(t.Context(), "work", 0)
	m.wantQueued("work", 2)
	m.stop()
	second.wait(t)
	wantStatus(t, "who waits", second.err, codes.Unavailable, "etcdserver: server stopped")
}

// Locks need the rights that their transactions need, when the wait begins; to
// clean up needs none.
func TestLockRights(t *testing.T) {
	m := start(t, newConfig(t))
	authc := pb.NewAuthClient(m.conn)
	as := func(name string) context.Context {
		resp, err := authc.Authenticate(t.Context(), &pb.AuthenticateRequest{Name: name, Password: "pw"})
		if err != nil {
			t.Fatal(err)
		}
		return metadata.AppendToOutgoingContext(t.Context(), "token", resp.Token)
	}
	for _, name := range []string{"root", "ann"} {
		if _, err := authc.UserAdd(t.Context(), &pb.AuthUserAddRequest{Name: name, Password: "pw"}); err != nil {
			t.Fatal(err)
		}
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(second(authc.UserGrantRole(t.Context(), &pb.AuthUserGrantRoleRequest{User: "root", Role: "root"})))
	must(second(authc.RoleAdd(t.Context(), &pb.AuthRoleAddRequest{Name: "worker"})))
	must(second(authc.RoleGrantPermission(t.Context(), &pb.AuthRoleGrantPermissionRequest{Name: "worker", Perm: &authpb.Permission{PermType: authpb.READWRITE, Key: []byte("work/"), RangeEnd: []byte("work0")}})))
	must(second(authc.UserGrantRole(t.Context(), &pb.AuthUserGrantRoleRequest{User: "ann", Role: "worker"})))
	must(second(authc.AuthEnable(t.Context(), &pb.AuthEnableRequest{})))

	nobody, ann, root := m.lock(t.Context(), "work", 0), as("ann"), as("root")
	nobody.wait(t)
	wantStatus(t, "nobody", nobody.err, codes.Unknown, "etcdserver: user name is empty")
	other := m.lock(ann, "other", 0)
	other.wait(t)
	wantStatus(t, "a lock that is not ann's", other.err, codes.Unknown, "etcdserver: permission denied")

	queued := func(n int64) {
		t.Helper()
		eventually(t, fmt.Sprintf("%d stand in line", n), func() bool {
			resp, err := m.kv.Range(root, &pb.RangeRequest{Key: []byte("work/"), RangeEnd: []byte("work0")})
			return err == nil && int64(len(resp.Kvs)) == n
		})
	}
	first := m.lock(ann, "work", 0)
	if first.wait(t); first.err != nil {
		t.Fatal(first.err)
	}
	waiting := m.lock(ann, "work", 0)
	queued(2)
	must(second(authc.UserDelete(root, &pb.AuthUserDeleteRequest{Name: "ann"})))
	waiting.stop()
	queued(1)
}

func (m *member) election() recipepb.ElectionClient { return recipepb.NewElectionClient(m.conn) }

// campaign begins to stand for an election.
func (m *member) campaign(name, value string, lease int64) (chan *recipepb.LeaderKey, context.CancelFunc) {
	ctx, stop := context.WithCancel(m.t.Context())
	m.t.Cleanup(stop)
	elected := make(chan *recipepb.LeaderKey, 1)
	// Owner: the test; ends with the call, at the latest with the test.
	go func() {
		resp, err := m.election().Campaign(ctx, &recipepb.CampaignRequest{Name: []byte(name), Value: []byte(value), Lease: lease})
		if err == nil {
			elected <- resp.Leader
		}
	}()
	return elected, stop
}

// observed is what the next leader that an observer hears of has to say.
func observed(t testing.TB, in grpc.ServerStreamingClient[recipepb.LeaderResponse]) string {
	t.Helper()
	resp, err := in.Recv()
	if err != nil {
		t.Fatal(err)
	}
	if resp.Header.GetRevision() < resp.Kv.ModRevision || resp.Header.MemberId == 0 {
		t.Errorf("header %v of an event at %d", resp.Header, resp.Kv.ModRevision)
	}
	return string(resp.Kv.Value)
}

// An election, seen from three members.
func TestElection(t *testing.T) {
	members := startThree(t)
	ask := members[1].election()
	_, err := ask.Leader(t.Context(), &recipepb.LeaderRequest{Name: []byte("head")})
	wantStatus(t, "before anybody stands", err, codes.Unknown, "election: no leader")
	_, err = ask.Resign(t.Context(), &recipepb.ResignRequest{})
	wantStatus(t, "Resign of nobody", err, codes.Unknown, `"leader" field must be provided`)
	_, err = ask.Proclaim(t.Context(), &recipepb.ProclaimRequest{})
	wantStatus(t, "Proclaim of nobody", err, codes.Unknown, `"leader" field must be provided`)

	seen, err := members[2].election().Observe(t.Context(), &recipepb.LeaderRequest{Name: []byte("head")})
	if err != nil {
		t.Fatal(err)
	}
	elected, _ := members[0].campaign("head", "one", 0)
	first := <-elected
	if got := observed(t, seen); got != "one" {
		t.Errorf("the first leader said %q, want one", got)
	}
	next, _ := members[1].campaign("head", "two", members[1].grant(0xbeef))
	members[0].wantQueued("head", 2)
	if _, err := ask.Proclaim(t.Context(), &recipepb.ProclaimRequest{Leader: first, Value: []byte("uno")}); err != nil {
		t.Fatal(err)
	}
	if got := observed(t, seen); got != "uno" {
		t.Errorf("the first leader said %q, want uno", got)
	}
	if _, err := ask.Resign(t.Context(), &recipepb.ResignRequest{Leader: first}); err != nil {
		t.Fatal(err)
	}
	if got := observed(t, seen); got != "two" {
		t.Errorf("the second leader said %q, want two", got)
	}
	if second := <-next; string(second.Key) != "head/beef" || second.Lease != 0xbeef || string(second.Name) != "head" {
		t.Errorf("got %v, want head/beef", second)
	}
	_, err = ask.Proclaim(t.Context(), &recipepb.ProclaimRequest{Leader: first, Value: []byte("still")})
	wantStatus(t, "who has resigned", err, codes.Unknown, "election: not leader")
	if _, err := ask.Resign(t.Context(), &recipepb.ResignRequest{Leader: first}); err != nil {
		t.Errorf("who has resigned resigns: %v", err)
	}
	resp, err := ask.Leader(t.Context(), &recipepb.LeaderRequest{Name: []byte("head")})
	if err != nil || string(resp.Kv.Value) != "two" {
		t.Errorf("the leader: got %v and %v, want two", resp, err)
	}

	third, stop := members[2].campaign("head", "three", 0)
	members[0].wantQueued("head", 2)
	stop()
	members[0].wantQueued("head", 1)
	if len(third) > 0 {
		t.Error("the third was elected beside the second")
	}
	same, _ := members[2].campaign("head", "zwei", 0xbeef)
	if got := <-same; string(got.Key) != "head/beef" {
		t.Errorf("the second once more: got %v, want head/beef", got)
	}
	if got := observed(t, seen); got != "zwei" {
		t.Errorf("the second leader said %q, want zwei", got)
	}
}
