package e2e

import (
	"context"
	"math/rand/v2"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"limpet/e2e/crash"
	"limpet/e2e/proc"
)

// TestCrash kills the server under load again and again, and lets it end by SIGTERM in some
// rounds. E2E_ROUNDS sets how often, E2E_SEED what is written and when the blow falls.
func TestCrash(t *testing.T) {
	rounds := number(t, "E2E_ROUNDS", 25)
	c := newCrashLoop(t, uint64(number(t, "E2E_SEED", 1)))
	for round := range rounds {
		c.load()
		switch how := c.rng.IntN(8); {
		case how < 2:
			c.terminate()
		default:
			c.server.Kill()
		}
		c.stop()
		if c.rng.IntN(4) == 0 {
			c.killWhileStarting()
		}
		start := time.Now()
		c.server.Run()
		t.Logf("round %d: serving %v after the start", round, time.Since(start).Round(time.Millisecond))
		c.check()
		if t.Failed() {
			break
		}
	}
	c.finish()
}

const (
	crashWriters    = 8
	crashDeadline   = time.Minute      // for a server to end, answer or catch up
	sigtermDeadline = 20 * time.Second // generous: the time taken is logged
)

// crashLoop is one server with its writers, followers and ledger.
type crashLoop struct {
	t         *testing.T
	rng       *rand.Rand
	server    *proc.Server
	conn      *grpc.ClientConn
	ledger    *crash.Ledger
	writers   []*crash.Writer
	running   *crash.Load
	client    *clientv3.Client
	followers []*crash.Follower
	floor     int64        // compacted revision
	hashes    []crash.Hash // taken before the crash
	compared  int          // hashes that could be compared after it
}

func newCrashLoop(t *testing.T, seed uint64) *crashLoop {
	c := &crashLoop{
		t:      t,
		rng:    rand.New(rand.NewPCG(seed, 0)),
		server: proc.Start(t, subject()),
		ledger: crash.NewLedger(),
	}
	c.dial()
	for n := range crashWriters {
		w := crash.NewWriter(n, seed, c.ledger)
		w.Adopt(c.conn, map[string]int64{}, nil)
		c.writers = append(c.writers, w)
	}
	client, err := clientv3.New(clientv3.Config{
		Endpoints:   []string{c.server.ClientURL()},
		DialTimeout: crashDeadline,
		Logger:      zap.NewNop(),
		DialOptions: []grpc.DialOption{grpc.WithConnectParams(quickReconnect)},
	})
	if err != nil {
		t.Fatal(err)
	}
	c.client = client
	t.Cleanup(func() { client.Close(); c.conn.Close() })
	for _, every := range []int{0, 0, 7, 50} {
		f := crash.Follow(client, every)
		c.followers = append(c.followers, f)
	}
	return c
}

// quickReconnect keeps clients from waiting long before they try a restarted server.
var quickReconnect = grpc.ConnectParams{MinConnectTimeout: time.Second}

func init() {
	quickReconnect.Backoff.BaseDelay = 50 * time.Millisecond
	quickReconnect.Backoff.Multiplier = 1.5
	quickReconnect.Backoff.MaxDelay = 300 * time.Millisecond
}

// dial connects for single requests, which fail at once when the server is gone.
func (c *crashLoop) dial() {
	c.t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+c.server.Client,
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithConnectParams(quickReconnect), grpc.WithDisableRetry(),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(1<<30)))
	if err != nil {
		c.t.Fatal(err)
	}
	c.conn = conn
}

func (c *crashLoop) context() (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), crashDeadline)
}

// load starts the writers and returns when a random number of writes was acknowledged. Meanwhile
// it takes hashes and compacts.
func (c *crashLoop) load() {
	c.t.Helper()
	ctx, cancel := c.context()
	defer cancel()
	acks, grown := c.ledger.Acks()
	until := acks + 20 + c.rng.IntN(1500)
	c.running = crash.Start(c.writers)
	c.hashes = nil
	compactAt := until
	if c.rng.IntN(3) == 0 {
		compactAt = acks + c.rng.IntN(until-acks)
	}
	for hashAt := acks; acks < until; acks, grown = c.ledger.Acks() {
		if acks >= hashAt {
			c.hash(ctx)
			hashAt = acks + 100
		}
		if acks >= compactAt {
			c.compact(ctx)
			compactAt = until
		}
		select {
		case <-grown:
		case <-ctx.Done():
			c.t.Fatalf("%d of %d writes were acknowledged: %v", acks, until, ctx.Err())
		}
	}
}

func (c *crashLoop) hash(ctx context.Context) {
	h, err := crash.HashAt(ctx, c.conn, 0)
	if err != nil {
		c.t.Errorf("HashKV under load: %v", err)
		return
	}
	c.hashes = append(c.hashes, h)
}

// compact stays below what every follower has seen.
func (c *crashLoop) compact(ctx context.Context) {
	rev := c.ledger.Top()
	for _, f := range c.followers {
		rev = min(rev, f.Seen())
	}
	if rev -= 50; rev <= c.floor {
		return
	}
	if _, err := c.client.Compact(ctx, rev); err != nil {
		c.t.Errorf("compact at %d: %v", rev, err)
		return
	}
	c.floor = rev
}

// terminate sends SIGTERM under load.
func (c *crashLoop) terminate() {
	c.t.Helper()
	exit := c.server.Terminate(sigtermDeadline)
	if !exit.Clean(c.server.Kind) {
		c.t.Errorf("SIGTERM under load ended with %+v, want exit code 0", exit)
	}
	c.t.Logf("SIGTERM under load took %v", exit.Took.Round(time.Millisecond))
}

// stop waits for the writers, all of which the server's death has ended.
func (c *crashLoop) stop() {
	c.t.Helper()
	for _, err := range c.running.Wait() {
		if crash.Fault(err) {
			c.t.Errorf("writer: %v", err)
		}
	}
}

// killWhileStarting starts the server and kills it again at a moment of its recovery.
func (c *crashLoop) killWhileStarting() {
	c.t.Helper()
	c.server.Launch()
	timer := time.NewTimer(time.Duration(c.rng.IntN(400)) * time.Millisecond)
	defer timer.Stop()
	<-timer.C // the moment of the blow, not a wait for anything
	c.server.Kill()
}

// check judges what the restarted server holds and hands it to the writers.
func (c *crashLoop) check() {
	c.t.Helper()
	ctx, cancel := c.context()
	defer cancel()
	c.conn.Close()
	c.dial()
	survivors, err := crash.Look(ctx, c.conn, c.ledger, c.writers)
	if err != nil {
		c.t.Fatal(err)
	}
	c.complain(survivors.Wrong)
	for _, before := range c.hashes {
		if before.Revision <= c.floor {
			continue
		}
		after, err := crash.HashAt(ctx, c.conn, before.Revision)
		switch {
		case err != nil:
			c.t.Errorf("HashKV at %d after the restart: %v", before.Revision, err)
		case after.Compacted != before.Compacted: // another set of revisions is hashed
		case after != before:
			c.t.Errorf("HashKV changed over the restart: %+v, was %+v", after, before)
		default:
			c.compared++
		}
	}
	for _, w := range c.writers {
		w.Adopt(c.conn, survivors.Present[w.Prefix()], survivors.Leases)
	}
}

const maxComplaints = 20

func (c *crashLoop) complain(wrong []string) {
	c.t.Helper()
	for i, w := range wrong {
		if i == maxComplaints {
			c.t.Errorf("… and %d more", len(wrong)-i)
			return
		}
		c.t.Error(w)
	}
}

// finish compares what everybody saw with one watch of the whole history.
func (c *crashLoop) finish() {
	c.t.Helper()
	ctx, cancel := c.context()
	defer cancel()
	top := c.ledger.Top()
	var seen []*crash.History
	for i, f := range c.followers {
		if err := f.WaitSeen(ctx, top); err != nil {
			c.t.Errorf("follower %d: %v", i, err)
		}
		h := f.Stop()
		c.complain(h.Wrong())
		seen = append(seen, h)
	}
	whole := crash.NewHistory(c.floor + 1)
	if c.floor == 0 {
		whole = crash.NewHistory(2)
	}
	for resp := range c.client.Watch(ctx, "\x00", clientv3.WithFromKey(), clientv3.WithRev(whole.Last()+1), clientv3.WithFragment()) {
		whole.Add(resp.Events)
		if resp.Err() != nil || whole.Last() >= top {
			break
		}
	}
	c.complain(whole.Wrong())
	for _, h := range seen {
		c.complain(whole.Compare(h))
		c.complain(c.ledger.CheckHistory(h))
	}
	if c.compared == 0 {
		c.t.Error("no HashKV value could be compared over a restart")
	}
	c.t.Logf("%s; %d hashes compared; compacted at %d", c.ledger.Summary(), c.compared, c.floor)
}
