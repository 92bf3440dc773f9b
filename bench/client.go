package main

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
)

// maxConns is how many clients a pool opens at most; more workers share them, as in etcd's own benchmark tool.
const maxConns = 100

// dial opens a bare gRPC connection for rows whose client must cost as little as possible.
func dial(address string) (*grpc.ClientConn, error) {
	return grpc.NewClient("passthrough:///"+address,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithNoProxy(),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(math.MaxInt32)),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.Config{
			BaseDelay: 5 * time.Millisecond, Multiplier: 1, MaxDelay: 5 * time.Millisecond}}))
}

// probe asks for a key by a linearizable get.
func probe(ctx context.Context, conn *grpc.ClientConn) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	_, err := pb.NewKVClient(conn).Range(ctx, &pb.RangeRequest{Key: []byte("/registry/health")})
	return err
}

// pool is the clients of one cluster. Worker w uses connection w modulo their number.
type pool struct {
	side  *side
	conns []*clientv3.Client
}

// newPool opens clients for a number of workers and waits until each has had an answer. A client of several addresses
// has a connection to each and sends its requests to them in turn: clientv3 does so.
func newPool(ctx context.Context, s *side, addresses []string, workers int) (*pool, error) {
	p := &pool{side: s}
	var endpoints []string
	for _, a := range addresses {
		endpoints = append(endpoints, "http://"+a)
	}
	for range min(workers, maxConns) {
		c, err := clientv3.New(clientv3.Config{
			Endpoints: endpoints, Context: ctx, Logger: zap.NewNop()})
		if err != nil {
			p.close()
			return nil, err
		}
		p.conns = append(p.conns, c)
		if _, err := c.Get(ctx, "/registry/health"); err != nil {
			p.close()
			return nil, fmt.Errorf("first get: %w", err)
		}
	}
	return p, nil
}

// close closes every connection.
func (p *pool) close() {
	for _, c := range p.conns {
		c.Close()
	}
}

func (p *pool) conn(worker int) *clientv3.Client { return p.conns[worker%len(p.conns)] }

// put writes key i of ks: a plain put, or on a Kubernetes-only side the transaction that Kubernetes would send.
func (p *pool) put(ctx context.Context, worker int, ks *keyspace, i int, value string) error {
	if p.side.kubernetes {
		return p.update(ctx, worker, ks, i, value)
	}
	_, err := p.conn(worker).Put(ctx, ks.key(i), value)
	return err
}

// maxConflicts is how often an update is sent again before it counts as failed.
const maxConflicts = 3

// update writes key i of ks as Kubernetes does: only if its mod revision is the one last seen (0: must not exist yet),
// and on a conflict again, at the revision the answer shows. Each key has one writer, so there should be no conflicts;
// kine shows some under many writers.
func (p *pool) update(ctx context.Context, worker int, ks *keyspace, i int, value string) error {
	key := ks.key(i)
	for range 1 + maxConflicts {
		resp, err := p.conn(worker).Txn(ctx).
			If(clientv3.Compare(clientv3.ModRevision(key), "=", ks.revs[i])).
			Then(clientv3.OpPut(key, value)).
			Else(clientv3.OpGet(key)).
			Commit()
		if err != nil {
			return err
		}
		if resp.Succeeded {
			ks.revs[i] = resp.Header.Revision
			return nil
		}
		p.side.conflicts.Add(1)
		ks.revs[i] = 0
		if kvs := resp.Responses[0].GetResponseRange().GetKvs(); len(kvs) > 0 {
			ks.revs[i] = kvs[0].ModRevision
		}
	}
	return fmt.Errorf("key %s: %d conflicts in a row although it has one writer", key, 1+maxConflicts)
}

// keyspace is n keys under a prefix and the revision at which each was last written.
//
// Invariant: revs[i] is touched only by the one worker that owns key i; there is no lock.
type keyspace struct {
	prefix string
	revs   []int64
}

func newKeyspace(prefix string, n int) *keyspace {
	return &keyspace{prefix: prefix, revs: make([]int64, n)}
}

// key is the name of key i; names sort as numbers do.
func (k *keyspace) key(i int) string { return fmt.Sprintf("%s%08d", k.prefix, i) }

func (k *keyspace) len() int { return len(k.revs) }

// values is a handful of random texts of one size, the same in every run; random, so that nothing gains by compressing.
func values(size int) []string {
	rng := rand.New(rand.NewPCG(1, uint64(size)))
	out := make([]string, 64)
	for i := range out {
		b := make([]byte, size)
		for j := range b {
			b[j] = byte(rng.Uint32())
		}
		out[i] = string(b)
	}
	return out
}

// fill writes every key of ks passes times, with values of the given size, from many workers.
func (p *pool) fill(ctx context.Context, ks *keyspace, size, passes int) error {
	workers := 400
	if p.side.kubernetes {
		workers = 2 // kine writes the slower, the more writers wait for SQLite's lock
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	vals := values(size)
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() { // ends after its share of the keys, or with the first failure of any worker
			for pass := range passes {
				for i := w; i < ks.len(); i += workers {
					if err := p.put(ctx, w, ks, i, vals[(i+pass)%len(vals)]); err != nil {
						cancel(fmt.Errorf("fill: %w", err))
						return
					}
				}
			}
		})
	}
	wg.Wait()
	return context.Cause(ctx)
}
