package migrate

import (
	"fmt"
	"strings"
	"testing"

	"go.etcd.io/etcd/api/v3/mvccpb"
)

// TestBatchStaysInBounds: no transaction has more operations, or bytes, than an
// etcd takes by default, save that one key may be larger than all bounds.
func TestBatchStaysInBounds(t *testing.T) {
	for _, size := range []int{0, 100, 9000, 300_000, exportBytes, 3 << 20} {
		var b batch
		batches, value := 1, make([]byte, size)
		n := min(300, 32<<20/(size+1))
		for i := range n {
			kv := &mvccpb.KeyValue{Key: fmt.Append(nil, "key", i), Value: value, Lease: int64(i % 2)}
			if !b.fits(kv) {
				b, batches = batch{}, batches+1
			}
			b.add(kv)
			if len(b.ops) > 128 || len(b.ops) > 1 && b.bytes > 3<<19 {
				t.Fatalf("values of %d bytes: %d operations of %d bytes together", size, len(b.ops), b.bytes)
			}
		}
		if least := max(n/128, min(n*size/(3<<19), n)); batches < least || batches > n {
			t.Errorf("values of %d bytes: %d batches", size, batches)
		}
		if len(b.leases) > 1 || len(b.ops) > 1 && !b.leases[1] {
			t.Errorf("leases of the last batch: %v", b.leases)
		}
	}
}

func TestQuoted(t *testing.T) {
	if got := quoted([]byte("/a\x00")); got != `"/a\x00"` {
		t.Errorf("a short key: %s", got)
	}
	if got := quoted([]byte(strings.Repeat("k", 100_000))); len(got) > 200 || !strings.HasSuffix(got, `k"… (100000 bytes)`) {
		t.Errorf("a long key: %s", got)
	}
}
