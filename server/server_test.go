package server

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
)

// newConfig is a valid configuration on free ports, with short times.
func newConfig(t testing.TB) Config {
	t.Helper()
	cfg := DefaultConfig()
	cfg.DataDir = filepath.Join(t.TempDir(), "data")
	cfg.ListenClientURLs = []string{freeURL(t)}
	cfg.AdvertiseClientURLs = cfg.ListenClientURLs
	cfg.ListenPeerURLs = []string{freeURL(t)}
	cfg.AdvertisePeerURLs = cfg.ListenPeerURLs
	cfg.Heartbeat, cfg.Election = 20*time.Millisecond, 100*time.Millisecond // leases from 1 s on
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	return cfg
}

// member is a running member and a raw connection to it.
type member struct {
	*Server
	t       testing.TB
	conn    *grpc.ClientConn
	kv      pb.KVClient
	stopped bool
}

func start(t testing.TB, cfg Config) *member {
	t.Helper()
	return startAll(t, cfg)[0]
}

// startAll starts members that may wait for each other: when one cannot start,
// none of the others goes on waiting for it. Members of a cluster get the times
// of the product: with shorter ones, a busy machine changes the leader.
func startAll(t testing.TB, cfgs ...Config) []*member {
	t.Helper()
	ctx, giveUp := context.WithCancelCause(t.Context())
	defer giveUp(nil)
	servers := make([]*Server, len(cfgs))
	var wg sync.WaitGroup
	for i, cfg := range cfgs {
		if strings.Contains(cfg.InitialCluster, ",") {
			cfg.Heartbeat, cfg.Election = DefaultConfig().Heartbeat, DefaultConfig().Election
		}
		// Owner: this call.
		wg.Go(func() {
			var err error
			if servers[i], err = Start(ctx, cfg, slog.New(slog.DiscardHandler)); err != nil {
				giveUp(fmt.Errorf("start %s: %w", cfg.Name, err))
			}
		})
	}
	wg.Wait()
	failed := context.Cause(ctx)
	members := make([]*member, len(cfgs))
	for i, s := range servers {
		if s != nil {
			members[i] = connect(t, s)
		}
	}
	if failed != nil {
		t.Fatal(failed)
	}
	return members
}

// connect makes the connection to a member that runs, which ends with the test.
func connect(t testing.TB, s *Server) *member {
	t.Helper()
	conn, err := grpc.NewClient(strings.TrimPrefix(s.cfg.ListenClientURLs[0], "http://"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	m := &member{Server: s, t: t, conn: conn, kv: pb.NewKVClient(conn)}
	t.Cleanup(func() {
		_ = conn.Close()
		if !m.stopped {
			m.stop()
		}
	})
	return m
}

func (m *member) stop() {
	m.t.Helper()
	m.stopped = true
	if err := m.Stop(); err != nil {
		m.t.Errorf("Stop: %v", err)
	}
}

func (m *member) put(key, value string) int64 {
	m.t.Helper()
	resp, err := m.kv.Put(m.t.Context(), &pb.PutRequest{Key: []byte(key), Value: []byte(value)})
	if err != nil {
		m.t.Fatalf("Put(%s): %v", key, err)
	}
	return resp.Header.Revision
}

func (m *member) wantValue(key, want string) {
	m.t.Helper()
	resp, err := m.kv.Range(m.t.Context(), &pb.RangeRequest{Key: []byte(key)})
	if err != nil {
		m.t.Fatalf("Range(%s): %v", key, err)
	}
	if len(resp.Kvs) != 1 || string(resp.Kvs[0].Value) != want {
		m.t.Errorf("Range(%s): got %v, want %q", key, resp.Kvs, want)
	}
}

// watch opens a stream with one watcher and returns once it is there.
func (m *member) watch(create *pb.WatchCreateRequest) pb.Watch_WatchClient {
	m.t.Helper()
	ws, err := pb.NewWatchClient(m.conn).Watch(m.t.Context())
	if err != nil {
		m.t.Fatal(err)
	}
	if err := ws.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: create}}); err != nil {
		m.t.Fatal(err)
	}
	if resp, err := ws.Recv(); err != nil || !resp.Created {
		m.t.Fatalf("first answer of a watch: got %v, %v, want it created", resp, err)
	}
	return ws
}

func httpGet(t testing.TB, url string) (code int, body string) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(resp.Body)
	if err := resp.Body.Close(); err != nil {
		t.Error(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(data)
}

func TestMemberServes(t *testing.T) {
	cfg := newConfig(t)
	cfg.ListenMetricsURLs = []string{freeURL(t)}
	cfg.Metrics = "extensive"
	m := start(t, cfg)

	rev := m.put("k", "v")
	m.wantValue("k", "v")
	if again := m.put("k", "w"); again != rev+1 {
		t.Errorf("revision of the second put: got %d, want %d", again, rev+1)
	}
	if _, err := m.kv.Put(t.Context(), &pb.PutRequest{}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("a put without a key: got %v, want InvalidArgument", err)
	}

	h, err := healthpb.NewHealthClient(m.conn).Check(t.Context(), &healthpb.HealthCheckRequest{})
	if err != nil || h.Status != healthpb.HealthCheckResponse_SERVING {
		t.Errorf("gRPC health: got %v, %v, want SERVING", h, err)
	}
	list, err := pb.NewClusterClient(m.conn).MemberList(t.Context(), &pb.MemberListRequest{})
	if err != nil || len(list.Members) != 1 || list.Members[0].Name != cfg.Name || list.Members[0].ClientURLs[0] != cfg.AdvertiseClientURLs[0] {
		t.Errorf("MemberList: got %v, %v, want %s at %s alone", list, err, cfg.Name, cfg.AdvertiseClientURLs[0])
	}
	st, err := pb.NewMaintenanceClient(m.conn).Status(t.Context(), &pb.StatusRequest{})
	if err != nil || st.Leader != st.Header.MemberId || len(st.Errors) != 0 {
		t.Errorf("Status: got %v, %v, want itself as leader and no errors", st, err)
	}

	// HTTP on the same port, and what is fit for strangers on the extra one.
	for _, c := range []struct {
		url  string
		code int
		want string
	}{
		{cfg.ListenClientURLs[0] + "/health", 200, `{"health":"true","reason":""}`},
		{cfg.ListenClientURLs[0] + "/version", 200, `"etcdserver"`},
		{cfg.ListenClientURLs[0] + "/metrics", 200, "etcd_server_has_leader 1"},
		{cfg.ListenClientURLs[0] + "/debug/vars", 200, `"raft.status": {`},
		{cfg.ListenClientURLs[0] + "/debug/pprof/", 404, ""},
		{cfg.ListenMetricsURLs[0] + "/metrics", 200, "grpc_server_handling_seconds"},
		{cfg.ListenMetricsURLs[0] + "/readyz", 200, "ok"},
		{cfg.ListenMetricsURLs[0] + "/debug/vars", 404, ""},
	} {
		if code, body := httpGet(t, c.url); code != c.code || !strings.Contains(body, c.want) {
			t.Errorf("%s: got %d, want %d and %q in\n%s", c.url, code, c.code, c.want, body)
		}
	}
	select {
	case err := <-m.Failed():
		t.Errorf("Failed: %v", err)
	default:
	}
}

func TestMemberRestartKeepsEverything(t *testing.T) {
	cfg := newConfig(t)
	var last int64
	var id uint64
	for i := range 4 {
		// A new name and address each time: the member is the same.
		cfg.Name = fmt.Sprintf("board%d", i)
		cfg.ListenClientURLs = []string{freeURL(t)}
		cfg.AdvertiseClientURLs = cfg.ListenClientURLs
		m := start(t, cfg)
		for j := range i {
			m.wantValue(fmt.Sprintf("k%d", j), fmt.Sprintf("v%d", j))
		}
		rev := m.put(fmt.Sprintf("k%d", i), fmt.Sprintf("v%d", i))
		if i > 0 && rev != last+1 {
			t.Errorf("revision after restart %d: got %d, want %d", i, rev, last+1)
		}
		last = rev
		list, err := pb.NewClusterClient(m.conn).MemberList(t.Context(), &pb.MemberListRequest{})
		if err != nil || len(list.Members) != 1 || list.Members[0].Name != cfg.Name || list.Members[0].ClientURLs[0] != cfg.AdvertiseClientURLs[0] {
			t.Fatalf("MemberList after restart %d: got %v, %v, want %s at %v alone", i, list, err, cfg.Name, cfg.AdvertiseClientURLs)
		}
		if i > 0 && list.Members[0].ID != id {
			t.Errorf("member ID after restart %d: got %x, want %x", i, list.Members[0].ID, id)
		}
		id = list.Members[0].ID
		m.stop()
	}
}

func TestMemberStop(t *testing.T) {
	cfg := newConfig(t)
	m := start(t, cfg)
	m.put("k", "v")
	m.stop()
	if err := m.Stop(); err != nil {
		t.Errorf("Stop the second time: %v", err)
	}
	if c, err := net.Dial("tcp", strings.TrimPrefix(cfg.ListenClientURLs[0], "http://")); err == nil {
		_ = c.Close()
		t.Error("the port still takes connections after Stop")
	}
	// The last change is in the file, the log not needed for it.
	if err := os.Remove(filepath.Join(cfg.DataDir, lockName)); err != nil {
		t.Fatal(err)
	}
	start(t, cfg).wantValue("k", "v")
}

func TestMemberStopEndsWatches(t *testing.T) {
	m := start(t, newConfig(t))
	idle := m.watch(&pb.WatchCreateRequest{Key: []byte("never")})
	busy := m.watch(&pb.WatchCreateRequest{Key: []byte("k")})
	m.put("k", "v")
	if resp, err := busy.Recv(); err != nil || len(resp.Events) != 1 {
		t.Fatalf("the event: got %v, %v", resp, err)
	}
	leases, err := pb.NewLeaseClient(m.conn).LeaseKeepAlive(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := leases.Send(&pb.LeaseKeepAliveRequest{ID: 1}); err != nil {
		t.Fatal(err)
	}
	if _, err := leases.Recv(); err != nil {
		t.Fatal(err)
	}
	m.stop()
	for name, ws := range map[string]interface{ RecvMsg(any) error }{"idle watch": idle, "busy watch": busy, "keepalive": leases} {
		if err := ws.RecvMsg(new(pb.WatchResponse)); status.Code(err) != codes.Unavailable {
			t.Errorf("%s when the member stops: got %v, want Unavailable", name, err)
		}
	}
}

// Whatever was acknowledged before Stop is there afterwards, and whoever was
// not served is told so.
func TestMemberStopUnderLoad(t *testing.T) {
	cfg := newConfig(t)
	m := start(t, cfg)
	const writers = 8
	var acked [writers]int
	var some, all sync.WaitGroup
	some.Add(writers)
	for w := range writers {
		all.Go(func() {
			for i := 1; ; i++ {
				_, err := m.kv.Put(t.Context(), &pb.PutRequest{Key: fmt.Appendf(nil, "w%d", w), Value: fmt.Append(nil, i)})
				if err != nil {
					if c := status.Code(err); c != codes.Unavailable && c != codes.Canceled {
						t.Errorf("writer %d, put %d: got %v, want Unavailable", w, i, err)
					}
					if i <= 20 {
						some.Done()
					}
					return
				}
				acked[w] = i
				if i == 20 {
					some.Done()
				}
			}
		})
	}
	some.Wait()
	m.stop()
	all.Wait()

	again := start(t, cfg)
	for w := range writers {
		resp, err := again.kv.Range(t.Context(), &pb.RangeRequest{Key: fmt.Appendf(nil, "w%d", w)})
		if err != nil || len(resp.Kvs) != 1 {
			t.Fatalf("writer %d after the restart: got %v, %v", w, resp, err)
		}
		// The put under way at the end may have happened, too.
		if got := int(resp.Kvs[0].Version); got != acked[w] && got != acked[w]+1 {
			t.Errorf("writer %d: %d puts were acknowledged, the key has version %d", w, acked[w], got)
		}
	}
}

func TestMemberRefusesAFolderInUse(t *testing.T) {
	cfg := newConfig(t)
	m := start(t, cfg)
	m.put("k", "v")
	second := cfg
	second.ListenClientURLs, second.ListenPeerURLs = []string{freeURL(t)}, []string{freeURL(t)}
	_, err := Start(t.Context(), second, slog.New(slog.DiscardHandler))
	wantSentence(t, "a second member", err, fmt.Sprintf("the data directory %s is in use by another limpet; stop that one first", cfg.DataDir))
	wantFree(t, second.ListenClientURLs)
	m.put("k", "w")
	m.wantValue("k", "w")
	m.stop()
	start(t, second).wantValue("k", "w")
}

func TestMemberRefusesAPortInUse(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	for _, c := range []struct {
		flag string
		set  func(cfg *Config)
	}{
		{"listen-client-urls", func(cfg *Config) {
			cfg.ListenClientURLs = append(cfg.ListenClientURLs, "http://"+taken.Addr().String())
		}},
		{"listen-metrics-urls", func(cfg *Config) { cfg.ListenMetricsURLs = []string{"http://" + taken.Addr().String()} }},
	} {
		t.Run(c.flag, func(t *testing.T) {
			cfg := newConfig(t)
			own := cfg.ListenClientURLs[:1:1]
			c.set(&cfg)
			_, err := Start(t.Context(), cfg, slog.New(slog.DiscardHandler))
			wantSentence(t, "Start", err, fmt.Sprintf("--%s: %s is in use by another program; stop it or choose another port", c.flag, taken.Addr()))
			if _, err := os.Lstat(cfg.DataDir); !os.IsNotExist(err) {
				t.Errorf("the data directory after the refusal: got %v, want that it was never made", err)
			}
			wantFree(t, own)
		})
	}
}

// A folder that is refused is refused before a port is opened, and unchanged.
func TestMemberRefusesAForeignFolder(t *testing.T) {
	for _, holds := range []files{
		{"photo.jpg": "x"},
		{"member/": ""},
		{identityName: "{}"},
		{identityName: strings.Replace(goodIdentity, "1", "9", 1)},
		{identityName: goodIdentity, databaseName: "this is no SQLite database, but it is long enough to look at as if it were one......................"},
	} {
		cfg := newConfig(t)
		cfg.DataDir = folder(t, holds)
		before := contents(t, cfg.DataDir)
		if _, err := Start(t.Context(), cfg, slog.New(slog.DiscardHandler)); err == nil {
			t.Errorf("Start in a folder that holds %v: got no error", holds)
		}
		after := contents(t, cfg.DataDir)
		if _, had := before[lockName]; !had {
			delete(after, lockName) // taking the lock of our own folder makes this file
		}
		if fmt.Sprint(after) != fmt.Sprint(before) {
			t.Errorf("the folder was touched:\n got %v\nwant %v", after, before)
		}
		wantFree(t, cfg.ListenClientURLs)
	}
}

func TestMemberStoppedBeforeReady(t *testing.T) {
	cfg := newConfig(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	s, err := Start(ctx, cfg, slog.New(slog.DiscardHandler))
	switch {
	case err == nil: // it was faster
		if err := s.Stop(); err != nil {
			t.Errorf("Stop: %v", err)
		}
	case err.Error() != "stopped before the member was ready: context canceled":
		t.Errorf("Start with an ended context: got %v", err)
	}
	wantFree(t, cfg.ListenClientURLs)
	m := start(t, cfg)
	m.put("k", "v")
	m.wantValue("k", "v")
}

func TestMemberExpiresLeases(t *testing.T) {
	cfg := newConfig(t)
	m := start(t, cfg)
	leases := pb.NewLeaseClient(m.conn)
	short, err := leases.LeaseGrant(t.Context(), &pb.LeaseGrantRequest{TTL: 1})
	if err != nil || short.TTL != 1 {
		t.Fatalf("LeaseGrant: got %v, %v, want 1 s", short, err)
	}
	long, err := leases.LeaseGrant(t.Context(), &pb.LeaseGrantRequest{TTL: 1000})
	if err != nil {
		t.Fatal(err)
	}
	ws := m.watch(&pb.WatchCreateRequest{Key: []byte("k"), RangeEnd: []byte("l")})
	for key, lease := range map[string]int64{"k-short": short.ID, "k-long": long.ID} {
		if _, err := m.kv.Put(t.Context(), &pb.PutRequest{Key: []byte(key), Lease: lease}); err != nil {
			t.Fatal(err)
		}
	}
	m.wantExpired(ws, "k-short")
	if ttl, err := leases.LeaseTimeToLive(t.Context(), &pb.LeaseTimeToLiveRequest{ID: short.ID}); err != nil || ttl.TTL != -1 {
		t.Errorf("TimeToLive of the lease that ended: got %v, %v, want -1", ttl, err)
	}
	m.wantValue("k-long", "")

	// A restart begins the time of those that are left anew, and counts on.
	next, err := leases.LeaseGrant(t.Context(), &pb.LeaseGrantRequest{TTL: 1})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.kv.Put(t.Context(), &pb.PutRequest{Key: []byte("k-next"), Lease: next.ID}); err != nil {
		t.Fatal(err)
	}
	m.stop()
	m = start(t, cfg)
	leases = pb.NewLeaseClient(m.conn)
	ttl, err := leases.LeaseTimeToLive(t.Context(), &pb.LeaseTimeToLiveRequest{ID: long.ID, Keys: true})
	if err != nil || ttl.GrantedTTL != 1000 || len(ttl.Keys) != 1 || string(ttl.Keys[0]) != "k-long" {
		t.Errorf("the long lease after the restart: got %v, %v, want 1000 s and k-long", ttl, err)
	}
	m.wantExpired(m.watch(&pb.WatchCreateRequest{Key: []byte("k"), RangeEnd: []byte("l"), StartRevision: 1}), "k-next")
}

// wantExpired reads from ws until the key is deleted.
func (m *member) wantExpired(ws pb.Watch_WatchClient, key string) {
	m.t.Helper()
	for {
		resp, err := ws.Recv()
		if err != nil {
			m.t.Fatalf("waiting for the end of %s: %v", key, err)
		}
		for _, e := range resp.Events {
			if e.Type == mvccpb.Event_DELETE && string(e.Kv.Key) == key {
				return
			}
		}
	}
}

// Every event of the key, once and in order, whatever is compacted meanwhile;
// or one compaction error (I8).
func TestMemberWatchDuringCompaction(t *testing.T) {
	m := start(t, newConfig(t))
	first := m.put("other", "")
	const puts = 400
	ws := m.watch(&pb.WatchCreateRequest{Key: []byte("k"), StartRevision: first})
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		for i := range puts {
			resp, err := m.kv.Put(t.Context(), &pb.PutRequest{Key: []byte("k"), Value: fmt.Append(nil, i)})
			if err != nil {
				t.Errorf("Put: %v", err)
				return
			}
			if i%40 != 39 {
				continue
			}
			if _, err := m.kv.Compact(t.Context(), &pb.CompactionRequest{Revision: resp.Header.Revision - 5, Physical: i%80 == 79}); err != nil {
				t.Errorf("Compact(%d): %v", resp.Header.Revision-5, err)
				return
			}
		}
	})
	for version := int64(0); version < puts; {
		resp, err := ws.Recv()
		if err != nil {
			t.Fatalf("after version %d: %v", version, err)
		}
		if resp.Canceled {
			if resp.CompactRevision == 0 {
				t.Fatalf("after version %d: cancelled without a compaction: %v", version, resp)
			}
			break
		}
		for _, e := range resp.Events {
			if version++; e.Kv.Version != version {
				t.Fatalf("got version %d, want %d", e.Kv.Version, version)
			}
		}
	}
	wg.Wait()

	// From below the floor there is nothing but the error.
	old := m.watch(&pb.WatchCreateRequest{Key: []byte("k"), StartRevision: first})
	resp, err := old.Recv()
	if err != nil || !resp.Canceled || resp.CompactRevision == 0 || len(resp.Events) != 0 {
		t.Errorf("a watch from below the floor: got %v, %v, want it cancelled with the floor", resp, err)
	}
}

func TestMemberCompactsByItself(t *testing.T) {
	// That a compactor runs is seen by its request; when, see autocompact_test.
	cfg := newConfig(t)
	cfg.AutoCompactionRetention = "50ms"
	m := start(t, cfg)
	first := m.put("k", "0")
	eventually(t, "the first revision is compacted", func() bool {
		m.put("k", "1")
		_, err := m.kv.Range(t.Context(), &pb.RangeRequest{Key: []byte("k"), Revision: first})
		return status.Code(err) == codes.OutOfRange
	})
}

// What an operator sees of a start is a few lines, the last of them the one
// that scripts wait for.
func TestMemberSaysReady(t *testing.T) {
	var log lines
	cfg := newConfig(t)
	s, err := Start(t.Context(), cfg, slog.New(slog.NewJSONHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	var ready map[string]any
	for _, line := range log.all() {
		var l map[string]any
		if err := json.Unmarshal([]byte(line), &l); err != nil {
			t.Fatalf("log line %q: %v", line, err)
		}
		if l["level"] != "INFO" {
			t.Errorf("a start and stop without trouble logs %s", line)
		}
		if l["msg"] == "ready to serve client requests" {
			ready = l
		}
	}
	if ready == nil || ready["name"] != cfg.Name || ready["revision"] != 1.0 {
		t.Errorf("the line that says ready: got %v, want name %s and revision 1", ready, cfg.Name)
	}
}

// lines collects what is written; safe for concurrent use.
type lines struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) all() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Split(strings.TrimSpace(l.text.String()), "\n")
}

// wantFree binds the ports for a moment.
func wantFree(t testing.TB, urls []string) {
	t.Helper()
	ls, err := listenAll("x", urls, false)
	if err != nil {
		t.Errorf("the ports after the refusal: %v, want them free", err)
	}
	closeAll(ls)
}

// Which alarms are raised is in the figures, and what a member takes the time for.
func TestAlarmMetrics(t *testing.T) {
	m := start(t, newConfig(t))
	shows := func(line string) func() bool {
		return func() bool {
			_, body := httpGet(t, m.cfg.ListenClientURLs[0]+"/metrics")
			return strings.Contains(body, "\n"+line)
		}
	}
	eventually(t, "no alarm is raised", shows(`limpet_alarms{alarm="NOSPACE"} 0`+"\n"))
	alarm := &pb.AlarmRequest{Action: pb.AlarmRequest_ACTIVATE, MemberID: 7, Alarm: pb.AlarmType_NOSPACE}
	if _, err := pb.NewMaintenanceClient(m.conn).Alarm(t.Context(), alarm); err != nil {
		t.Fatal(err)
	}
	eventually(t, "one is raised", shows(`limpet_alarms{alarm="NOSPACE"} 1`+"\n"))
	eventually(t, "the other is not", shows(`limpet_alarms{alarm="CORRUPT"} 0`+"\n"))
	eventually(t, "it tells the time", shows("limpet_clock_seconds "))
}
