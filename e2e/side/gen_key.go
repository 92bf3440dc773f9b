package side

import (
	"bytes"
	"fmt"
	"math"
	"strings"
)

// keys are few, so that requests meet each other's traces, and close to each other in order, so
// that ranges have interesting ends.
var keys = [][]byte{
	[]byte("a"), []byte("a\x00"), []byte("a\x00b"), []byte("a/1"), []byte("a/2"), []byte("a/3"), []byte("a/30"), []byte("a/4"), []byte("a0"),
	[]byte("b"), []byte("b/1"), []byte("b/2"), []byte("b/3"), []byte("b/4"), []byte("b/5"), []byte("b/6"), []byte("b/7"), []byte("b/8"), []byte("b/9"),
	[]byte("c"), []byte("c/\xff"), []byte("c/\xff\xff"), []byte("d"), []byte("key with blanks"), []byte("naïve/日本"),
	[]byte("/registry/pods/default/x"), []byte("/registry/pods/default/y"), []byte("/registry/pods/kube-system/x"), []byte("compact_rev_key"),
	{0}, {0, 0}, {0, 1}, {0xff}, {0xff, 0xff}, {0xff, 0xff, 0xff}, []byte(strings.Repeat("long/", 60)),
}

func (g *Generator) key() []byte {
	switch n := g.rng.IntN(200); {
	case n == 0:
		return nil
	case n < 4:
		return fmt.Appendf(nil, "rare/%d", g.rng.IntN(1000))
	}
	return keys[g.rng.IntN(len(keys))]
}

// span gives a key and a range end in one of the many forms clients send. Whether a user may ask for a
// range that ends before it begins depends, with etcd, on the order in which permissions were granted:
// there are none of these among users.
func (g *Generator) span() (key, end []byte) {
	key, end = g.anySpan()
	if g.auth != nil && len(end) > 0 && !bytes.Equal(end, []byte{0}) && bytes.Compare(key, end) > 0 {
		key, end = end, key
	}
	return key, end
}

func (g *Generator) anySpan() (key, end []byte) {
	key = g.key()
	switch g.rng.IntN(12) {
	case 0, 1, 2:
		return key, nil
	case 3, 4:
		return key, prefixEnd(key)
	case 5:
		return key, []byte{0}
	case 6, 7:
		return []byte{0}, []byte{0}
	case 8:
		return []byte("b/"), []byte("b0")
	case 9:
		return key, key
	case 10:
		return []byte("a"), []byte("c")
	default:
		return key, g.key()
	}
}

// prefixEnd is what clients compute for "everything that begins with key".
func prefixEnd(key []byte) []byte {
	end := append([]byte(nil), key...)
	for i := len(end) - 1; i >= 0; i-- {
		if end[i] < 0xff {
			end[i]++
			return end[:i+1]
		}
	}
	return []byte{0}
}

// Limits of the wire; the comparison with the first is on the marshalled raft request, whose own
// fields vary by a few bytes, so that sizes keep away from the exact border.
const (
	maxRequest = 3 << 19              // --max-request-bytes
	maxReceive = maxRequest + 512<<10 // gRPC's limit
)

func (g *Generator) value() []byte {
	switch n := g.rng.IntN(1000); {
	case n < 50:
		return nil
	case n < 500:
		return fmt.Appendf(nil, "%d", g.rng.IntN(10))
	case n < 900:
		return fmt.Appendf(nil, "v%d", g.rng.IntN(1_000_000))
	case n < 980:
		return g.bytes(100 + g.rng.IntN(4000))
	case n < 992:
		return g.bytes(20_000 + g.rng.IntN(80_000))
	case n < 994:
		return g.bytes(maxRequest - 4096 - g.rng.IntN(1000))
	case n < 996:
		return g.bytes(maxRequest)
	case n < 998:
		return g.bytes(maxReceive - 4096)
	default:
		return g.bytes(maxReceive + 1000)
	}
}

// bytes fills size bytes so that they cost little to make and print.
func (g *Generator) bytes(size int) []byte {
	b := make([]byte, size)
	seed := byte(g.rng.IntN(256))
	for i := range b {
		b[i] = seed + byte(i)
	}
	return b
}

// revision gives a revision to read at: mostly a good one.
func (g *Generator) revision() int64 {
	switch g.rng.IntN(16) {
	case 0:
		return g.rev
	case 1:
		return g.rev + 1
	case 2:
		return g.rev + 1000
	case 3:
		return g.compacted
	case 4:
		return g.compacted - 1
	case 5, 6:
		return g.pastRevision()
	case 7:
		return pick[int64](g, -1, 1, math.MinInt64, math.MaxInt64)
	default:
		return 0
	}
}

// pastRevision is one that can be read.
func (g *Generator) pastRevision() int64 {
	floor := max(1, g.compacted)
	return floor + g.rng.Int64N(g.rev-floor+1)
}

// nearRevision is a value for filters and compares.
func (g *Generator) nearRevision() int64 {
	if g.chance(5) {
		return pick(g, -1, math.MaxInt64, g.rev+1)
	}
	return max(0, g.rev-g.rng.Int64N(60))
}
