package cluster

import (
	"errors"
	"slices"
	"testing"
	"time"

	"limpet/peer"
	"limpet/txn"
)

// A leader that is removed lets another member lead, which takes it out of raft;
// down to the last one.
func TestRemovedLeaderHandsOver(t *testing.T) {
	t.Parallel()
	bs := founded(t, 3)
	for len(bs) > 1 {
		old := leader(t, bs...)
		bs = slices.DeleteFunc(bs, func(b *board) bool { return b == old })
		if _, err := bs[0].running().Propose(t.Context(), &txn.MemberRemove{ID: old.identity().Member}); err != nil {
			t.Fatalf("the removal of %s: %v", old.name, err)
		}
		until(t, old.name+" to hear that it was removed", func() bool { return old.failure() == ErrRemoved })
		old.stop()
		wantOne(t, bs...)
	}
}

// A removed member stays as long as nobody leads who could have raft go on
// without it: its vote is needed.
func TestRemovedMemberIsNeeded(t *testing.T) {
	t.Parallel()
	bs := founded(t, 2)
	b := follower(t, bs...)
	k := &keeper{me: b.local.me, removed: time.Now().Add(-time.Hour)}
	if !k.outOfRaft(b.running()) {
		t.Error("it stays, though a leader has not let it go for an hour")
	}
	leader(t, bs...).stop()
	until(t, "the leader to be missed", func() bool { return b.running().Leader() == 0 })
	if k.outOfRaft(b.running()) {
		t.Error("it goes, though the other one could not lead without it")
	}
	if !inRaft(b.running(), 0xa1) || !inRaft(b.running(), 0xa2) {
		t.Errorf("raft counts on %v, want both", b.running().Servers())
	}
}

// A member whose cluster was recovered as another one gives way only if it has
// been without a leader for long: those who have one acknowledge writes.
func TestGiveWay(t *testing.T) {
	t.Parallel()
	bs := founded(t, 2)
	b := follower(t, bs...)
	n := b.running()
	k := &keeper{me: b.local.me, line: b.local.line, led: time.Now().Add(-time.Hour)}
	hear := func() error {
		b.local.Refused(&peer.Refusal{Code: peer.Recovered, Text: "as another one"})
		k.giveWay(n)
		return b.failure()
	}
	if err := hear(); err != nil {
		t.Errorf("with a leader: %v, want that it stays", err)
	}
	leader(t, bs...).stop()
	until(t, "the leader to be missed", func() bool { return n.Leader() == 0 })
	if err := hear(); err != nil {
		t.Errorf("a moment after its leader was lost: %v, want that it stays", err)
	}
	k.led = time.Now().Add(-2 * wayPatience)
	if k.giveWay(n); b.failure() != nil {
		t.Errorf("nothing was heard: %v, want that it stays", b.failure())
	}
	if err := hear(); !errors.Is(err, ErrRecovered) {
		t.Errorf("without a leader for long: %v, want ErrRecovered", err)
	}
}
