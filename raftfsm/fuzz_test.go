package raftfsm

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime/metrics"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"limpet/auth"
	"limpet/sqlstore"
	"limpet/txn"
	"limpet/v2tree"
)

// content is all that members must agree on, as text.
func content(t *testing.T, f *fsm) string {
	t.Helper()
	rows, err := f.store.View().Range("", "\x00", sqlstore.RangeOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	for _, r := range rows.Rows { // an empty value may be nil or not
		fmt.Fprintf(&out, "%q=%q %d %d %d %d\n", r.Key, r.Value, r.ID, r.Create, r.Version, r.Lease)
	}
	v2 := f.state.V2()
	fmt.Fprintln(&out, v2.Index(), v2.Due())
	for from, all := uint64(1), (v2tree.Interest{Path: "/", Recursive: true}); ; { // all that was ever done to it
		e, next, err := v2.Next(all, from)
		if err != nil {
			t.Fatal(err)
		}
		if from = next; e == nil {
			break
		}
		fmt.Fprintf(&out, "%s %q %+v %+v %d\n", e.Action, e.Key, e.Node, e.Prev, e.Time)
	}
	cluster, recovered := f.state.Cluster()
	data, err := json.Marshal([]any{
		f.state.Rules().Records(auth.NewRules()), f.store.Rev(), f.store.Floor(), f.state.Leases(), f.state.Alarms(), f.state.Members(), f.state.Removed(), cluster, recovered,
	})
	if err != nil {
		t.Fatal(err)
	}
	return out.String() + string(data)
}

// commands is the part of an entry between its head and its sum.
func commands(t testing.TB, cmds ...txn.Command) []byte {
	whole := encode(t, entryHead{}, cmds...)
	return whole[entryHeader : len(whole)-entrySum]
}

// FuzzApply: an entry that a leader takes from another member can be applied,
// as the first one, too; it makes the same of two members, one of which applies it
// together with what came before; and what it made is there after a restart.
func FuzzApply(f *testing.F) {
	for _, cmd := range append(allKinds(), &txn.Found{Cluster: 5, Members: []*txn.Member{{ID: 1}, {ID: 2}}},
		&txn.MemberAdd{Member: &txn.Member{ID: 9, Learner: true}}, &txn.MemberRemove{ID: 1}, &txn.MemberUpdate{ID: 1}, &txn.MemberPromote{ID: 1}, &txn.MemberRelease{ID: 1},
		&pb.PutRequest{}, &pb.PutRequest{IgnoreValue: true, IgnoreLease: true}, &pb.DeleteRangeRequest{RangeEnd: []byte{0}},
		&pb.TxnRequest{Compare: []*pb.Compare{{}}, Success: []*pb.RequestOp{{}}, Failure: []*pb.RequestOp{{}}},
		&v2tree.Request{Op: v2tree.Delete, Path: "/a", Recursive: true}, &v2tree.Request{Op: v2tree.CreateInOrder, Path: "/", Value: "\xff"},
		&pb.CompactionRequest{Revision: 2}, &pb.LeaseGrantRequest{}, &pb.LeaseGrantRequest{TTL: -1, ID: 1}, &pb.AlarmRequest{Action: 7, Alarm: 9},
	) {
		f.Add(commands(f, cmd), int64(1))
		f.Add(commands(f, &txn.As{Caller: auth.Caller{User: "root", Revision: 1}, Command: cmd}), int64(1))
	}
	for _, cmds := range [][]txn.Command{
		{&pb.AuthUserAddRequest{}, &pb.AuthUserAddRequest{Name: "u"}, &pb.AuthRoleGrantPermissionRequest{Name: "root"}, &pb.AuthUserChangePasswordRequest{Name: "root"}},
		{&pb.AuthRoleAddRequest{Name: "r"}, &pb.AuthRoleGrantPermissionRequest{Name: "r"}, &pb.AuthRoleRevokePermissionRequest{Role: "r"}, &pb.AuthUserGrantRoleRequest{User: "root", Role: "r"}},
		{&pb.AuthEnableRequest{}, &txn.As{Caller: auth.Caller{User: "root", Revision: 4}, Command: &txn.Login{Digest: "p"}}, &pb.AuthDisableRequest{}, &txn.Login{}},
		{&pb.AuthEnableRequest{}, &pb.TxnRequest{Success: []*pb.RequestOp{{}}}, &pb.AuthUserDeleteRequest{Name: "root"}, &pb.AuthRoleDeleteRequest{Role: "root"}},
	} {
		f.Add(commands(f, cmds...), int64(1))
	}
	f.Add(commands(f, allKinds()...), int64(-1))
	for kind := byte(8); kind <= 14; kind++ { // all that are JSON
		for _, text := range []string{`null`, `{"members":[null]}`, `{"member":null}`, `{"members":[{"peer_urls":null}]}`} {
			f.Add(appendCommand(nil, kind, []byte(text)), int64(1))
		}
	}
	before := []txn.Command{
		&txn.Found{Cluster: 7, Members: []*txn.Member{{ID: 1, Name: "a", PeerURLs: []string{"http://a"}}, {ID: 2, Learner: true}}},
		&pb.LeaseGrantRequest{ID: 7, TTL: 60}, &pb.PutRequest{Key: []byte("k"), Value: []byte("v"), Lease: 7}, &pb.PutRequest{Key: []byte("k"), Value: []byte("w")},
		&pb.AuthUserAddRequest{Name: "root", HashedPassword: "aGFzaA=="}, &pb.AuthRoleAddRequest{Name: "root"}, &pb.AuthUserGrantRoleRequest{User: "root", Role: "root"},
	}
	f.Fuzz(func(t *testing.T, cmds []byte, clock int64) {
		// Sealed here: no mutation would find a sum.
		entry := sealEntry(append(appendHead(nil, entryHead{format: newestFormat, member: 2, batch: 9, time: clock}), cmds...))
		if checkEntry(entry) != nil {
			return
		}
		logs := []*raft.Log{entryAt(t, 1, before...), {Index: 2, Term: 1, Type: raft.LogCommand, Data: entry}}
		path := filepath.Join(t.TempDir(), "limpet.db")
		one, other, first := fsmAt(t, path), newFSM(t), newFSM(t)
		one.ApplyBatch(logs[:1])
		one.ApplyBatch(logs[1:])
		other.ApplyBatch(logs)
		first.ApplyBatch([]*raft.Log{{Index: 1, Term: 1, Type: raft.LogCommand, Data: entry}})
		want := content(t, one)
		if got := content(t, other); got != want {
			t.Errorf("two members differ:\n%s\n%s", got, want)
		}
		if err := errors.Join(one.store.Close(), other.store.Close(), first.store.Close()); err != nil {
			t.Fatal(err)
		}
		if got := content(t, fsmAt(t, path)); got != want {
			t.Errorf("after a restart:\n%s\nbefore:\n%s", got, want)
		}
	})
}

// FuzzImage: an image becomes one only with the right sum at its end, byte for
// byte, however it arrives; any other leaves nothing behind.
func FuzzImage(f *testing.F) {
	f.Add([]byte(nil), []byte(nil), true, uint16(1))
	f.Add([]byte("SQLite format 3\x00"), []byte(nil), true, uint16(7))
	f.Add(bytes.Repeat([]byte("x"), 100), bytes.Repeat([]byte("y"), 31), false, uint16(32))
	f.Add([]byte(nil), make([]byte, 40), false, uint16(33))
	f.Fuzz(func(t *testing.T, body, tail []byte, whole bool, piece uint16) {
		stream := slices.Concat(body, tail)
		if whole {
			sum := sha256.Sum256(body)
			stream = slices.Concat(body, sum[:])
		}
		if len(stream) == 0 {
			return // nothing is written; the transport lets no such image in
		}
		m := &manifestStore{dir: t.TempDir()}
		sink, err := m.Create(1, 5, 2, raft.Configuration{}, 1, nil)
		if err != nil {
			t.Fatal(err)
		}
		for part := range slices.Chunk(stream, int(piece)+1) {
			if n, err := sink.Write(part); n != len(part) || err != nil {
				t.Fatalf("Write of %d bytes: %d, %v", len(part), n, err)
			}
			if held := len(sink.(*manifestSink).held); held > sha256.Size {
				t.Fatalf("%d bytes are held back, want at most %d", held, sha256.Size)
			}
		}
		end := max(len(stream)-sha256.Size, 0)
		sum := sha256.Sum256(stream[:end])
		good := bytes.Equal(sum[:], stream[end:])
		if err := sink.Close(); (err == nil) != good {
			t.Fatalf("Close: %v, and the sum is right: %v", err, good)
		}
		got, err := os.ReadFile(filepath.Join(m.dir, imageName))
		if good && (err != nil || !bytes.Equal(got, stream[:end])) {
			t.Errorf("the image has %d bytes, %v; want the %d sent", len(got), err, end)
		}
		if files, _ := os.ReadDir(m.dir); !good && len(files) > 0 {
			t.Errorf("a damaged image leaves %v", files)
		}
	})
}

// piped is a raft stream from somebody who has said all; Close tells that
// nothing more is made of it.
type piped struct {
	net.Conn
	in     io.Reader
	closed chan struct{}
}

func (p *piped) Read(b []byte) (int, error)  { return p.in.Read(b) }
func (p *piped) Write(b []byte) (int, error) { return len(b), nil }
func (p *piped) Close() error                { close(p.closed); return nil }
func (p *piped) RemoteAddr() net.Addr        { return &net.TCPAddr{} }

// layer is a raft.StreamLayer to which connections come by hand.
type layer struct {
	conns   chan net.Conn
	quit    chan struct{}
	dialled net.Conn
}

func (l *layer) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.quit:
		return nil, net.ErrClosed
	}
}
func (l *layer) Close() error   { close(l.quit); return nil }
func (l *layer) Addr() net.Addr { return &net.TCPAddr{} }
func (l *layer) Dial(raft.ServerAddress, time.Duration) (net.Conn, error) {
	return l.dialled, nil
}

func allocated() uint64 {
	s := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(s)
	return s[0].Value.Uint64()
}

// FuzzRaftStream: whatever comes over a raft stream, raft gets calls that it can
// take, and what is claimed costs no memory before it has come.
func FuzzRaftStream(f *testing.F) {
	for _, seed := range raftStreams(f) {
		f.Add(seed)
		f.Add(seed[:len(seed)/2])
	}
	f.Add([]byte{0, 0x81, 0xa7, 'E', 'n', 't', 'r', 'i', 'e', 's', 0xdd, 0xff, 0xff, 0xff, 0xff, 0xc0})                     // 2^32-1 entries
	f.Add([]byte{0, 0x81, 0xa4, 'A', 'd', 'd', 'r', 0xc6, 0xff, 0xff, 0xff, 0xff, 1})                                       // an address of 4 GiB
	f.Add([]byte{2, 0x81, 0xa4, 'S', 'i', 'z', 'e', 0xd3, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 2, 3})         // an image of less than nothing
	f.Add([]byte{2, 0x81, 0xa4, 'S', 'i', 'z', 'e', 0})                                                                     // and one of nothing
	f.Add([]byte{0, 0x81, 0xa7, 'E', 'n', 't', 'r', 'i', 'e', 's', 0x93, 0x80, 0xc0, 0x81, 0xa4, 'D', 'a', 't', 'a', 0xc0}) // one of three is nothing
	f.Fuzz(func(t *testing.T, data []byte) {
		l := &layer{conns: make(chan net.Conn), quit: make(chan struct{})}
		under := raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
			Stream: l, MaxRPCsInFlight: 1, Timeout: time.Minute, Logger: NewRaftLogger(slog.New(slog.DiscardHandler)),
		})
		k := newQuiet(under)
		c := &piped{in: bytes.NewReader(data), closed: make(chan struct{})}
		before := allocated()
		l.conns <- c
		for open := true; open; {
			select {
			case rpc := <-k.Consumer():
				take(t, rpc)
			case <-c.closed:
				open = false
			}
		}
		if n := allocated() - before; n > 2<<20+200*uint64(len(data)) {
			t.Errorf("%d bytes of memory for %d that came", n, len(data))
		}
		if err := under.Close(); err != nil {
			t.Error(err)
		}
		k.close()
	})
}

// take does with a call what raft does first, and answers.
func take(t *testing.T, rpc raft.RPC) {
	t.Helper()
	switch req := rpc.Command.(type) {
	case *raft.AppendEntriesRequest:
		if slices.Contains(req.Entries, nil) {
			t.Errorf("an entry of %d is nothing", len(req.Entries))
		}
	case *raft.InstallSnapshotRequest:
		if req.Size <= sha256.Size {
			t.Errorf("an image of %d bytes", req.Size)
		}
		_, _ = io.Copy(io.Discard, rpc.Reader)
	}
	rpc.Respond(nil, errors.New("no"))
}

// raftStreams is one call of each kind, as it is sent.
func raftStreams(f *testing.F) [][]byte {
	f.Helper()
	var out [][]byte
	header := raft.RPCHeader{ProtocolVersion: 3, ID: []byte("abc"), Addr: []byte("abc")}
	entries := []*raft.Log{{Index: 4, Term: 2, Type: raft.LogCommand, Data: encode(f, entryHead{}, allKinds()...)}, {Index: 5, Term: 2, Type: raft.LogNoop}}
	for _, send := range []func(*raft.NetworkTransport) error{
		func(n *raft.NetworkTransport) error {
			return n.AppendEntries("1", "1", &raft.AppendEntriesRequest{RPCHeader: header, Term: 2, PrevLogEntry: 3, PrevLogTerm: 1, Entries: entries, LeaderCommitIndex: 3}, new(raft.AppendEntriesResponse))
		},
		func(n *raft.NetworkTransport) error {
			return n.AppendEntries("1", "1", &raft.AppendEntriesRequest{RPCHeader: header, Term: 2}, new(raft.AppendEntriesResponse))
		},
		func(n *raft.NetworkTransport) error {
			return n.RequestVote("1", "1", &raft.RequestVoteRequest{RPCHeader: header, Term: 2}, new(raft.RequestVoteResponse))
		},
		func(n *raft.NetworkTransport) error {
			return n.RequestPreVote("1", "1", &raft.RequestPreVoteRequest{RPCHeader: header, Term: 2}, new(raft.RequestPreVoteResponse))
		},
		func(n *raft.NetworkTransport) error {
			return n.TimeoutNow("1", "1", &raft.TimeoutNowRequest{RPCHeader: header}, new(raft.TimeoutNowResponse))
		},
		func(n *raft.NetworkTransport) error {
			return n.InstallSnapshot("1", "1", &raft.InstallSnapshotRequest{RPCHeader: header, Term: 2, Size: 40}, new(raft.InstallSnapshotResponse), strings.NewReader(strings.Repeat("x", 40)))
		},
	} {
		sent := new(bytes.Buffer)
		w := &layer{quit: make(chan struct{}), dialled: &tape{sent: sent}}
		n := raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{Stream: w, Timeout: time.Minute, Logger: NewRaftLogger(slog.New(slog.DiscardHandler))})
		if err := send(n); err == nil {
			f.Fatal("a call was answered by nobody")
		}
		if err := n.Close(); err != nil {
			f.Fatal(err)
		}
		out = append(out, sent.Bytes())
	}
	return out
}

// tape is a connection that keeps what is written, and ends.
type tape struct {
	net.Conn
	sent *bytes.Buffer
}

func (t *tape) Write(b []byte) (int, error)      { return t.sent.Write(b) }
func (t *tape) Read([]byte) (int, error)         { return 0, io.EOF }
func (t *tape) Close() error                     { return nil }
func (t *tape) SetDeadline(time.Time) error      { return nil }
func (t *tape) SetReadDeadline(time.Time) error  { return nil }
func (t *tape) SetWriteDeadline(time.Time) error { return nil }
