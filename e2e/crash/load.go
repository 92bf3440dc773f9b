package crash

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
)

const (
	keysPerWriter = 12
	leaseTTL      = 100_000 // outlives the test
)

// Writer writes to keys of its own, so that it knows what each must hold. It stops at the first
// write that is not answered.
type Writer struct {
	name   string
	rng    *rand.Rand
	ledger *Ledger
	kv     pb.KVClient
	lease  pb.LeaseClient

	present map[string]int64 // its keys that exist, with their lease
	leases  []int64
	granted int64
	number  int64
}

// NewWriter makes the n-th writer of a test.
func NewWriter(n int, seed uint64, ledger *Ledger) *Writer {
	return &Writer{
		name:    fmt.Sprintf("w%02d", n),
		rng:     rand.New(rand.NewPCG(seed, uint64(n))),
		ledger:  ledger,
		present: map[string]int64{},
		number:  int64(n),
	}
}

// Prefix is what all the writer's keys begin with.
func (w *Writer) Prefix() string { return w.name + "/" }

// Adopt takes what a restarted server holds as the truth; the Ledger has judged it.
func (w *Writer) Adopt(conn *grpc.ClientConn, present map[string]int64, alive map[int64]bool) {
	w.kv, w.lease = pb.NewKVClient(conn), pb.NewLeaseClient(conn)
	w.present = present
	w.leases = nil
	for id := range alive {
		if id/1_000_000 == w.number+1 {
			w.leases = append(w.leases, id)
		}
	}
	slices.Sort(w.leases)
}

// Run writes until a write fails or ctx ends; the error of the last write is returned.
func (w *Writer) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		if err := w.write(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (w *Writer) write(ctx context.Context) error {
	switch n := w.rng.IntN(100); {
	case n < 50:
		return w.put(ctx)
	case n < 70:
		return w.txn(ctx)
	case n < 82:
		return w.remove(ctx)
	case n < 86:
		return w.removeAll(ctx)
	case n < 94:
		return w.grant(ctx)
	default:
		return w.revoke(ctx)
	}
}

func (w *Writer) key() string { return fmt.Sprintf("%sk%02d", w.Prefix(), w.rng.IntN(keysPerWriter)) }

// value names the Op; now and then it is long.
func (w *Writer) value(id int) string {
	if w.rng.IntN(20) == 0 {
		return fmt.Sprintf("%d %0*d", id, 1+w.rng.IntN(30_000), 0)
	}
	return fmt.Sprint(id)
}

func (w *Writer) put(ctx context.Context) error {
	var lease int64
	if len(w.leases) > 0 && w.rng.IntN(4) == 0 {
		lease = w.leases[w.rng.IntN(len(w.leases))]
	}
	op := w.ledger.Begin("put", func(id int) []Effect { return []Effect{{Key: w.key(), Value: w.value(id), Lease: lease}} })
	e := op.Effects[0]
	resp, err := w.kv.Put(ctx, &pb.PutRequest{Key: []byte(e.Key), Value: []byte(e.Value), Lease: lease})
	if err != nil {
		return err
	}
	w.ledger.Acked(op, resp.Header.Revision)
	w.present[e.Key] = lease
	return nil
}

// txn deletes one key and puts two others, in one revision.
func (w *Writer) txn(ctx context.Context) error {
	keys := w.rng.Perm(keysPerWriter)[:3]
	name := func(i int) string { return fmt.Sprintf("%sk%02d", w.Prefix(), keys[i]) }
	op := w.ledger.Begin("txn", func(id int) []Effect {
		effects := []Effect{{Key: name(0), Value: w.value(id)}, {Key: name(1), Value: w.value(id)}}
		if _, ok := w.present[name(2)]; ok {
			effects = append(effects, Effect{Key: name(2), Deleted: true})
		}
		return effects
	})
	req := &pb.TxnRequest{}
	for _, e := range op.Effects {
		if e.Deleted {
			req.Success = append(req.Success, &pb.RequestOp{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: &pb.DeleteRangeRequest{Key: []byte(e.Key)}}})
			continue
		}
		req.Success = append(req.Success, &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte(e.Key), Value: []byte(e.Value)}}})
	}
	resp, err := w.kv.Txn(ctx, req)
	if err != nil {
		return err
	}
	w.ledger.Acked(op, resp.Header.Revision)
	w.apply(op)
	return nil
}

func (w *Writer) apply(op *Op) {
	for _, e := range op.Effects {
		if e.Deleted {
			delete(w.present, e.Key)
		} else {
			w.present[e.Key] = e.Lease
		}
	}
}

func (w *Writer) remove(ctx context.Context) error {
	key := w.key()
	return w.removeRange(ctx, &pb.DeleteRangeRequest{Key: []byte(key)}, func(k string) bool { return k == key })
}

func (w *Writer) removeAll(ctx context.Context) error {
	end := []byte(w.name + "0") // '0' follows '/'
	return w.removeRange(ctx, &pb.DeleteRangeRequest{Key: []byte(w.Prefix()), RangeEnd: end}, func(string) bool { return true })
}

func (w *Writer) removeRange(ctx context.Context, req *pb.DeleteRangeRequest, hit func(string) bool) error {
	op := w.ledger.Begin("delete", func(int) []Effect { return w.deletions(hit) })
	resp, err := w.kv.DeleteRange(ctx, req)
	if err != nil {
		return err
	}
	if int(resp.Deleted) != len(op.Effects) {
		return fmt.Errorf("delete of %q hit %d keys, want %v: %w", req.Key, resp.Deleted, op.Effects, errWrong)
	}
	w.ledger.Acked(op, resp.Header.Revision)
	w.apply(op)
	return nil
}

// deletions are those of the writer's keys that are hit, in key order.
func (w *Writer) deletions(hit func(string) bool) []Effect {
	var effects []Effect
	for key := range w.present {
		if hit(key) {
			effects = append(effects, Effect{Key: key, Deleted: true})
		}
	}
	slices.SortFunc(effects, func(a, b Effect) int {
		if a.Key < b.Key {
			return -1
		}
		return 1
	})
	return effects
}

func (w *Writer) grant(ctx context.Context) error {
	w.granted++
	id := (w.number+1)*1_000_000 + w.granted
	w.ledger.LeaseBegun(id)
	if _, err := w.lease.LeaseGrant(ctx, &pb.LeaseGrantRequest{ID: id, TTL: leaseTTL}); err != nil {
		return err
	}
	w.ledger.LeaseAcked(id, true)
	w.leases = append(w.leases, id)
	return nil
}

func (w *Writer) revoke(ctx context.Context) error {
	if len(w.leases) == 0 {
		return nil
	}
	i := w.rng.IntN(len(w.leases))
	id := w.leases[i]
	w.ledger.LeaseBegun(id)
	op := w.ledger.Begin("revoke", func(int) []Effect { return w.deletions(func(k string) bool { return w.present[k] == id }) })
	resp, err := w.lease.LeaseRevoke(ctx, &pb.LeaseRevokeRequest{ID: id})
	if err != nil {
		return err
	}
	w.ledger.Acked(op, resp.Header.Revision)
	w.ledger.LeaseAcked(id, false)
	w.apply(op)
	w.leases = slices.Delete(w.leases, i, i+1)
	return nil
}

// Load is a set of running writers.
type Load struct {
	cancel context.CancelFunc
	all    sync.WaitGroup

	mu   sync.Mutex // guards errs
	errs []error
}

// Start runs the writers, each in a goroutine that ends at its first failed write.
func Start(writers []*Writer) *Load {
	ctx, cancel := context.WithCancel(context.Background())
	l := &Load{cancel: cancel}
	for _, w := range writers {
		l.all.Go(func() {
			err := w.Run(ctx)
			l.mu.Lock()
			defer l.mu.Unlock()
			l.errs = append(l.errs, err)
		})
	}
	return l
}

// Wait waits for all writers to end and gives their errors.
func (l *Load) Wait() []error {
	l.all.Wait()
	l.cancel()
	return l.errs
}
