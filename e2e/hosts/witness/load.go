package witness

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	loadClients  = 6
	loadKeys     = 10 // few, so that clients meet
	loadPace     = 8 * time.Millisecond
	callPatience = 2 * time.Second // then a client gives a call up and turns to the next member
)

// Load is clients that write and read the same few keys. Each makes one call at a time and turns to
// another member when a call fails.
type Load struct {
	ledger  *Ledger
	excused []string
	cancel  context.CancelFunc
	all     sync.WaitGroup

	mu    sync.Mutex // guards wrong
	wrong map[string]bool
}

// StartLoad starts clients of the members behind conns. Errors that say what is excused are no
// complaint.
func StartLoad(ledger *Ledger, conns []*grpc.ClientConn, excused ...string) *Load {
	ctx, cancel := context.WithCancel(context.Background())
	l := &Load{ledger: ledger, excused: excused, cancel: cancel, wrong: map[string]bool{}}
	for i := range loadClients {
		c := &client{load: l, rng: rand.New(rand.NewPCG(1, uint64(i))), conns: conns, turn: i}
		// Owner: the Load; ends when Stop cancels ctx.
		l.all.Go(func() { c.run(ctx) })
	}
	return l
}

// Stop ends all clients and lists the errors that no fault of the cluster explains.
func (l *Load) Stop() []string {
	l.cancel()
	l.all.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	var wrong []string
	for text := range l.wrong {
		wrong = append(wrong, text)
	}
	return wrong
}

// failed notes an error unless it is one of those that an unavailable member may answer with.
func (l *Load) failed(c *Call, err error) {
	switch status.Code(err) {
	case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled:
		return
	}
	if slices.ContainsFunc(l.excused, func(text string) bool { return strings.Contains(err.Error(), text) }) {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.wrong[fmt.Sprintf("%s failed with %v", c.What, err)] = true
}

// client is one of a Load's.
type client struct {
	load  *Load
	rng   *rand.Rand
	conns []*grpc.ClientConn
	turn  int
}

func (c *client) run(ctx context.Context) {
	pace := time.NewTicker(loadPace)
	defer pace.Stop()
	for ctx.Err() == nil {
		call, err := c.call(ctx)
		if err != nil {
			c.load.failed(call, err)
			c.turn++
		}
		select {
		case <-pace.C:
		case <-ctx.Done():
		}
	}
}

func (c *client) call(ctx context.Context) (*Call, error) {
	ctx, cancel := context.WithTimeout(ctx, callPatience)
	defer cancel()
	kv := pb.NewKVClient(c.conns[c.turn%len(c.conns)])
	switch n := c.rng.IntN(100); {
	case n < 25:
		return c.put(ctx, kv, c.key())
	case n < 30: // a key of its own, which nobody writes again: it stays for CheckKept
		return c.put(ctx, kv, "")
	case n < 42:
		return c.pair(ctx, kv)
	case n < 55:
		return c.remove(ctx, kv)
	case n < 70:
		return c.swap(ctx, kv)
	default:
		return c.get(ctx, kv, n < 80)
	}
}

func (c *client) key() string {
	return fmt.Sprintf("%s%02d", c.load.ledger.prefix, c.rng.IntN(loadKeys))
}

// put puts a key; with an empty one, a new key.
func (c *client) put(ctx context.Context, kv pb.KVClient, key string) (*Call, error) {
	call := c.load.ledger.Begin("put", func(id int) []Effect {
		if key == "" {
			key = fmt.Sprintf("%sonce/%06d", c.load.ledger.prefix, id)
		}
		return []Effect{{Key: key, Value: fmt.Sprint(id) + strings.Repeat(".", c.load.ledger.Padding)}}
	})
	resp, err := kv.Put(ctx, putRequest(call.Effects[0]))
	if err != nil {
		return call, err
	}
	c.load.ledger.Changed(call, resp.Header.Revision)
	return call, nil
}

// pair puts two keys in one transaction.
func (c *client) pair(ctx context.Context, kv pb.KVClient) (*Call, error) {
	i := c.rng.IntN(loadKeys - 1)
	call := c.load.ledger.Begin("pair", func(id int) []Effect {
		name := func(i int) string { return fmt.Sprintf("%s%02d", c.load.ledger.prefix, i) }
		return []Effect{{Key: name(i), Value: fmt.Sprint(id)}, {Key: name(i + 1), Value: fmt.Sprint(id)}}
	})
	resp, err := kv.Txn(ctx, &pb.TxnRequest{Success: []*pb.RequestOp{putOp(call.Effects[0]), putOp(call.Effects[1])}})
	if err != nil {
		return call, err
	}
	c.load.ledger.Changed(call, resp.Header.Revision)
	return call, nil
}

func (c *client) remove(ctx context.Context, kv pb.KVClient) (*Call, error) {
	key := c.key()
	call := c.load.ledger.Begin("delete", func(int) []Effect { return []Effect{{Key: key, Deleted: true}} })
	resp, err := kv.DeleteRange(ctx, &pb.DeleteRangeRequest{Key: []byte(key)})
	switch {
	case err != nil:
		return call, err
	case resp.Deleted == 0:
		c.load.ledger.Read(call, key, nil)
		c.load.ledger.Unchanged(call, resp.Header.Revision)
	default:
		c.load.ledger.Changed(call, resp.Header.Revision)
	}
	return call, nil
}

// swap reads a key and puts it if nobody else has changed it since, as Kubernetes does.
func (c *client) swap(ctx context.Context, kv pb.KVClient) (*Call, error) {
	key := c.key()
	before := c.load.ledger.Begin("get before a swap", nil)
	old, err := c.read(ctx, kv, before, &pb.RangeRequest{Key: []byte(key)})
	if err != nil {
		return before, err
	}
	expected := int64(0)
	if len(old.Kvs) > 0 {
		expected = old.Kvs[0].ModRevision
	}
	call := c.load.ledger.Begin("swap", func(id int) []Effect { return []Effect{{Key: key, Value: fmt.Sprint(id)}} })
	c.load.ledger.Expected(call, key, expected)
	unchanged := &pb.Compare{Key: []byte(key), Target: pb.Compare_MOD, TargetUnion: &pb.Compare_ModRevision{ModRevision: expected}}
	otherwise := &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: []byte(key)}}}
	resp, err := kv.Txn(ctx, &pb.TxnRequest{
		Compare: []*pb.Compare{unchanged}, Success: []*pb.RequestOp{putOp(call.Effects[0])}, Failure: []*pb.RequestOp{otherwise},
	})
	switch {
	case err != nil:
		return call, err
	case resp.Succeeded:
		c.load.ledger.Changed(call, resp.Header.Revision)
	default:
		c.load.ledger.Read(call, key, resp.Responses[0].GetResponseRange().Kvs)
		c.load.ledger.Unchanged(call, resp.Header.Revision)
	}
	return call, nil
}

func (c *client) get(ctx context.Context, kv pb.KVClient, serializable bool) (*Call, error) {
	call := c.load.ledger.Begin("get", nil)
	call.Serializable = serializable
	_, err := c.read(ctx, kv, call, &pb.RangeRequest{Key: []byte(c.key()), Serializable: serializable})
	return call, err
}

func (c *client) read(ctx context.Context, kv pb.KVClient, call *Call, req *pb.RangeRequest) (*pb.RangeResponse, error) {
	resp, err := kv.Range(ctx, req)
	if err != nil {
		return nil, err
	}
	c.load.ledger.Read(call, string(req.Key), resp.Kvs)
	c.load.ledger.Unchanged(call, resp.Header.Revision)
	return resp, nil
}

func putRequest(e Effect) *pb.PutRequest {
	return &pb.PutRequest{Key: []byte(e.Key), Value: []byte(e.Value)}
}

func putOp(e Effect) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: putRequest(e)}}
}
