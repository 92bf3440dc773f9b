package crash

import (
	"strings"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"

	"go.etcd.io/etcd/api/v3/mvccpb"
)

// diary is a ledger with: a=1 at 2, b=2 at 3, a deleted at 4, then an unanswered put of c and an
// unanswered delete of b.
func diary() *Ledger {
	l := NewLedger()
	effect := func(es ...Effect) func(int) []Effect { return func(int) []Effect { return es } }
	l.Acked(l.Begin("put", effect(Effect{Key: "a", Value: "1"})), 2)
	l.Acked(l.Begin("put", effect(Effect{Key: "b", Value: "2"})), 3)
	l.Acked(l.Begin("delete", effect(Effect{Key: "a", Deleted: true})), 4)
	l.Begin("put", effect(Effect{Key: "c", Value: "3"}))
	l.Begin("delete", effect(Effect{Key: "b", Deleted: true}))
	return l
}

func kv(key, value string, rev int64) *mvccpb.KeyValue {
	return &mvccpb.KeyValue{Key: []byte(key), Value: []byte(value), ModRevision: rev}
}

func expect(t *testing.T, got []string, want string) {
	t.Helper()
	switch {
	case want == "" && len(got) > 0:
		t.Errorf("got complaints %q, want none", got)
	case want != "" && !strings.Contains(strings.Join(got, "\n"), want):
		t.Errorf("got complaints %q, want one with %q", got, want)
	}
}

// TestLedgerState restarts onto states that a server could be in, right and wrong.
func TestLedgerState(t *testing.T) {
	tests := []struct {
		name string
		rev  int64
		kvs  []*mvccpb.KeyValue
		want string
	}{
		{"neither unanswered op happened", 4, []*mvccpb.KeyValue{kv("b", "2", 3)}, ""},
		{"the put happened", 5, []*mvccpb.KeyValue{kv("b", "2", 3), kv("c", "3", 5)}, ""},
		{"both happened", 6, []*mvccpb.KeyValue{kv("c", "3", 5)}, ""},
		{"an acknowledged delete is undone", 4, []*mvccpb.KeyValue{kv("a", "1", 2), kv("b", "2", 3)}, "a = "},
		{"a key is at another revision", 5, []*mvccpb.KeyValue{kv("b", "2", 5)}, "b = "},
		{"a key has another value", 4, []*mvccpb.KeyValue{kv("b", "9", 3)}, "b = "},
		{"the store went back", 3, []*mvccpb.KeyValue{kv("b", "2", 3)}, "revision went back"},
		{"a key from nowhere", 5, []*mvccpb.KeyValue{kv("b", "2", 3), kv("z", "1", 5)}, "nobody wrote it"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) { expect(t, diary().CheckState(test.kvs, test.rev), test.want) })
	}
	t.Run("a key is missing", func(t *testing.T) {
		l := NewLedger()
		l.Acked(l.Begin("put", func(int) []Effect { return []Effect{{Key: "a", Value: "1"}} }), 2)
		expect(t, l.CheckState(nil, 2), "a is missing")
	})
}

// TestLedgerHistory shows the ledger histories, right and wrong.
func TestLedgerHistory(t *testing.T) {
	type event struct {
		rev        int64
		key, value string // no value: deleted
	}
	tests := []struct {
		name   string
		events []event
		want   string
	}{
		{"without the unanswered ops", []event{{2, "a", "1"}, {3, "b", "2"}, {4, "a", ""}}, ""},
		{"with both", []event{{2, "a", "1"}, {3, "b", "2"}, {4, "a", ""}, {5, "c", "3"}, {6, "b", ""}}, ""},
		{"an unanswered op twice", []event{{2, "a", "1"}, {3, "b", "2"}, {4, "a", ""}, {5, "c", "3"}, {6, "c", "3"}}, "no op explains"},
		{"a revision missing", []event{{2, "a", "1"}, {4, "a", ""}}, "want 3"},
		{"the last one missing", []event{{2, "a", "1"}, {3, "b", "2"}}, "revision 4 is not in the history"},
		{"other content", []event{{2, "a", "1"}, {3, "b", "7"}, {4, "a", ""}}, "acknowledged was put"},
		{"half of a revision more", []event{{2, "a", "1"}, {3, "b", "2"}, {3, "x", "2"}, {4, "a", ""}}, "acknowledged was put"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			h := NewHistory(2)
			var response []*clientv3.Event
			for _, e := range test.events {
				typ := mvccpb.Event_PUT
				if e.value == "" {
					typ = mvccpb.Event_DELETE
				}
				response = append(response, &clientv3.Event{Type: typ, Kv: kv(e.key, e.value, e.rev)})
			}
			h.Add(response)
			expect(t, append(h.Wrong(), diary().CheckHistory(h)...), test.want)
		})
	}
	t.Run("a repeat", func(t *testing.T) {
		h := NewHistory(2)
		for range 2 {
			h.Add([]*clientv3.Event{{Kv: kv("a", "1", 2)}})
		}
		expect(t, h.Wrong(), "want 3")
	})
}
