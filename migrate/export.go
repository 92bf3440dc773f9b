package migrate

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

const (
	// exportOps and exportBytes bound a transaction below etcd's defaults of 128
	// operations and 1.5 MiB. A single key that is larger goes alone.
	exportOps   = 128
	exportBytes = 1 << 20
	// exportTries is how often a transaction is tried whose leases have run out.
	exportTries = 3
)

// Export copies the keys of a running limpet, as they are at one revision, to an
// etcd. Their revisions there are new ones. It belongs to one goroutine.
type Export struct {
	From, To *clientv3.Client
	Prefix   string // empty: all keys
	// Force lets there be keys below the prefix already: what is the same is left
	// alone, so that an export that was cut short goes on, what is different is
	// overwritten, and what only the target has stays.
	Force    bool
	Progress Progress

	leases map[int64]bool // those that keys have: whether they still ran
}

// Exported tells what an export did.
type Exported struct {
	Keys     int64  `json:"keys"`     // that both sides have, read again and compared
	Written  int64  `json:"written"`  // by this run
	Revision int64  `json:"revision"` // of the source, at which they were read
	Leases   int    `json:"leases"`
	Expired  int64  `json:"expired"` // keys that were not copied, or have gone again, since their time was up
	Extra    int64  `json:"extra"`   // keys that only the target has
	Hash     string `json:"hash"`    // SHA-256 over keys and values, the same on both sides
}

// Run copies, then reads both sides again and compares them.
func (e *Export) Run(ctx context.Context) (*Exported, error) {
	e.leases = make(map[int64]bool)
	out := new(Exported)
	var err error
	if out.Revision, err = e.begin(ctx); err != nil {
		return nil, err
	}
	if err := e.copy(ctx, out); err != nil {
		return nil, fmt.Errorf("%w; %d keys were written: run it again with --force to go on", err, out.Written)
	}
	if err := e.verify(ctx, out); err != nil {
		return nil, err
	}
	for _, runs := range e.leases {
		if runs {
			out.Leases++
		}
	}
	return out, nil
}

// begin finds the revision to copy, and makes sure that the target is one.
func (e *Export) begin(ctx context.Context) (rev int64, err error) {
	start, end := spanOf(e.Prefix)
	from, err := e.From.Get(ctx, start, clientv3.WithRange(end), clientv3.WithCountOnly())
	if err != nil {
		return 0, fmt.Errorf("read the source: %w", err)
	}
	to, err := e.To.Get(ctx, start, clientv3.WithRange(end), clientv3.WithCountOnly())
	switch {
	case err != nil:
		return 0, fmt.Errorf("read the target: %w", err)
	case from.Header.ClusterId == to.Header.ClusterId:
		return 0, fmt.Errorf("source and target are the same cluster, %x", from.Header.ClusterId)
	case to.Count > 0 && !e.Force:
		return 0, fmt.Errorf("the target has %d keys below the prefix %s: empty it, or write among them with --force", to.Count, quoted([]byte(e.Prefix)))
	}
	return from.Header.Revision, nil
}

// spanOf are the keys with a prefix, as etcd's ranges say it.
func spanOf(prefix string) (start, end string) {
	if prefix == "" {
		return "\x00", "\x00" // all
	}
	return prefix, clientv3.GetPrefixRangeEnd(prefix)
}

func (e *Export) copy(ctx context.Context, out *Exported) error {
	from := newPages(e.From, e.Prefix, out.Revision)
	var b batch
	for {
		kvs, err := from.next(ctx)
		if err != nil {
			return fmt.Errorf("read the source: %w", err)
		}
		if len(kvs) == 0 {
			return e.write(ctx, &b, out)
		}
		same, err := e.alreadyThere(ctx, kvs)
		if err != nil {
			return fmt.Errorf("read the target: %w", err)
		}
		for _, kv := range kvs {
			runs, err := e.lease(ctx, kv.Lease)
			if err != nil {
				return err
			}
			if !runs || same[string(kv.Key)] {
				continue
			}
			if !b.fits(kv) {
				if err := e.write(ctx, &b, out); err != nil {
					return err
				}
			}
			b.add(kv)
		}
		if e.Progress != nil {
			e.Progress("copying", out.Written)
		}
	}
}

// alreadyThere tells which of the keys the target has with value and lease, if
// it may have any. Keys that come one after the other span no others but its own.
func (e *Export) alreadyThere(ctx context.Context, kvs []*mvccpb.KeyValue) (map[string]bool, error) {
	same := make(map[string]bool)
	if !e.Force {
		return same, nil
	}
	want := make(map[string]*mvccpb.KeyValue)
	for _, kv := range kvs {
		want[string(kv.Key)] = kv
	}
	there := newPages(e.To, "", 0)
	there.from, there.end = string(kvs[0].Key), string(kvs[len(kvs)-1].Key)+"\x00"
	for {
		got, err := there.next(ctx)
		if err != nil || len(got) == 0 {
			return same, err
		}
		for _, kv := range got {
			if w := want[string(kv.Key)]; w != nil && bytes.Equal(w.Value, kv.Value) && w.Lease == kv.Lease {
				same[string(kv.Key)] = true
			}
		}
	}
}

// lease makes sure that the target has a lease, with the time that is left of
// it; false: its time is up, and its keys are about to go.
func (e *Export) lease(ctx context.Context, id int64) (runs bool, err error) {
	if id == 0 {
		return true, nil
	}
	if runs, known := e.leases[id]; known {
		return runs, nil
	}
	if runs, err = e.grant(ctx, id); err == nil {
		e.leases[id] = runs
	}
	return runs, err
}

func (e *Export) grant(ctx context.Context, id int64) (runs bool, err error) {
	left, err := e.From.TimeToLive(ctx, clientv3.LeaseID(id))
	switch {
	case err != nil:
		return false, fmt.Errorf("ask the source for lease %x: %w", id, err)
	case left.TTL <= 0:
		return false, nil
	}
	// The client's own Grant chooses the ID itself.
	_, err = pb.NewLeaseClient(e.To.ActiveConnection()).LeaseGrant(ctx, &pb.LeaseGrantRequest{ID: id, TTL: left.TTL})
	if err != nil && !errors.Is(rpctypes.Error(err), rpctypes.ErrLeaseExist) {
		return false, fmt.Errorf("grant lease %x at the target: %w", id, rpctypes.Error(err))
	}
	return true, nil
}

// write writes what has come together in one transaction.
func (e *Export) write(ctx context.Context, b *batch, out *Exported) error {
	if len(b.ops) == 0 {
		return nil
	}
	for try := 1; ; try++ {
		_, err := e.To.Txn(ctx).Then(b.ops...).Commit()
		switch {
		case err == nil:
			out.Written += int64(len(b.ops))
			*b = batch{}
			return nil
		case !errors.Is(err, rpctypes.ErrLeaseNotFound) || try == exportTries:
			return fmt.Errorf("write %d keys from %s on to the target: %w", len(b.ops), quoted(b.ops[0].KeyBytes()), err)
		}
		// A lease has run out at the target between its grant and its use.
		for id := range b.leases {
			if _, err := e.grant(ctx, id); err != nil {
				return err
			}
		}
	}
}

// batch is a transaction in the making.
type batch struct {
	ops    []clientv3.Op
	bytes  int
	leases map[int64]bool
}

// enough bytes of a key tell people which one it is.
const enough = 100

// quoted is a key for people.
func quoted(key []byte) string {
	if len(key) <= enough {
		return fmt.Sprintf("%q", key)
	}
	return fmt.Sprintf("%q… (%d bytes)", key[:enough], len(key))
}

func sizeOf(kv *mvccpb.KeyValue) int { return len(kv.Key) + len(kv.Value) + 64 }

func (b *batch) fits(kv *mvccpb.KeyValue) bool {
	return len(b.ops) == 0 || len(b.ops) < exportOps && b.bytes+sizeOf(kv) <= exportBytes
}

func (b *batch) add(kv *mvccpb.KeyValue) {
	var opts []clientv3.OpOption
	if kv.Lease != 0 {
		opts = append(opts, clientv3.WithLease(clientv3.LeaseID(kv.Lease)))
		if b.leases == nil {
			b.leases = make(map[int64]bool)
		}
		b.leases[kv.Lease] = true
	}
	b.ops = append(b.ops, clientv3.OpPut(string(kv.Key), string(kv.Value), opts...))
	b.bytes += sizeOf(kv)
}

// verify walks both sides in the order of the keys and compares them.
func (e *Export) verify(ctx context.Context, out *Exported) error {
	ours, theirs := newCursor(newPages(e.From, e.Prefix, out.Revision)), newCursor(newPages(e.To, e.Prefix, 0))
	sum := sha256.New()
	for {
		want, err := ours.peek(ctx)
		if err != nil {
			return fmt.Errorf("read the source again: %w", err)
		}
		got, err := theirs.peek(ctx)
		if err != nil {
			return fmt.Errorf("read the target again: %w", err)
		}
		switch {
		case want == nil && got == nil:
			out.Hash = hex.EncodeToString(sum.Sum(nil))
			return nil
		case want == nil || got != nil && bytes.Compare(got.Key, want.Key) < 0:
			out.Extra++
			theirs.step()
			continue
		case got == nil || !bytes.Equal(got.Key, want.Key):
			if err := e.mayBeGone(ctx, want); err != nil {
				return err
			}
			out.Expired++
			ours.step()
			continue
		case !bytes.Equal(got.Value, want.Value) || got.Lease != want.Lease:
			return fmt.Errorf("the key %s has another value or lease at the target than at revision %d of the source: somebody writes there; stop that, and run it again with --force", quoted(want.Key), out.Revision)
		}
		sum.Write(binary.BigEndian.AppendUint64(nil, uint64(len(want.Key))))
		sum.Write(want.Key)
		sum.Write(binary.BigEndian.AppendUint64(nil, uint64(len(want.Value))))
		sum.Write(got.Value)
		out.Keys++
		ours.step()
		theirs.step()
		if e.Progress != nil {
			e.Progress("comparing", out.Keys)
		}
	}
}

// mayBeGone is an error if there is no reason for the target to lack a key.
func (e *Export) mayBeGone(ctx context.Context, kv *mvccpb.KeyValue) error {
	if kv.Lease != 0 && !e.leases[kv.Lease] {
		return nil // it was about to go when it was read
	}
	if kv.Lease != 0 {
		left, err := e.To.TimeToLive(ctx, clientv3.LeaseID(kv.Lease))
		if err != nil {
			return fmt.Errorf("ask the target for lease %x: %w", kv.Lease, err)
		}
		if left.TTL <= 0 {
			return nil
		}
	}
	return fmt.Errorf("the target lacks the key %s: somebody deletes there; stop that, and run it again with --force", quoted(kv.Key))
}
