package cluster

import (
	"testing"

	"limpet/raftfsm"
	"limpet/txn"
)

// Boards that were flashed alike end with distinct names, and keep them.
func TestDistinctNames(t *testing.T) {
	for _, c := range []struct {
		name string
		self txn.Member
		want string
		got  string
	}{
		{"nobody has it", txn.Member{ID: 9}, "x", "x"},
		{"it is taken", txn.Member{ID: 9}, "vm", "vm-0009"},
		{"it is taken by a higher ID", txn.Member{ID: 1}, "vm", "vm-0001"},
		{"both have it, the other is lower", txn.Member{ID: 9, Name: "vm"}, "vm", "vm-0009"},
		{"both have it, this one is lower", txn.Member{ID: 1, Name: "vm"}, "vm", "vm"},
		{"it was made distinct before", txn.Member{ID: 9, Name: "x-0009"}, "x", "x-0009"},
		{"it takes the place of the other", txn.Member{ID: 9, Replaces: 5}, "vm", "vm"},
		{"a new name", txn.Member{ID: 9, Name: "old"}, "new", "new"},
	} {
		ms := &raftfsm.Membership{Members: []*txn.Member{{ID: 5, Name: "vm"}, &c.self}}
		if got := distinctName(ms, &c.self, c.want); got != c.got {
			t.Errorf("%s: got %q, want %q", c.name, got, c.got)
		}
	}
}
