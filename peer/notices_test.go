package peer

import (
	"fmt"
	"testing"
	"time"
)

// What happens again and again is said once, and shown as it last was.
func TestNotices(t *testing.T) {
	var n notices
	if !n.due("a", "refused", []any{"member", "a", "reason", "one"}) {
		t.Error("the first is not due")
	}
	if n.due("a", "refused", []any{"member", "a", "reason", "two"}) {
		t.Error("the same is due again")
	}
	if !n.due("b", "closed", []any{"remote", "x", "address", "y", "error", fmt.Errorf("three")}) {
		t.Error("another is not due")
	}
	got := n.recent()
	if len(got) != 2 || got[0].Text != "closed (remote x, address y): three" || got[1].Text != "refused (member a): two" {
		t.Errorf("got %q, want the newest first", got)
	}
	n.last["a"].said = time.Now().Add(-noticeEvery)
	if !n.due("a", "refused", nil) {
		t.Error("not due after so long")
	}
	n.last["a"].Time = time.Now().Add(-2 * noticeStays)
	if got := n.recent(); len(got) != 1 || len(n.last) != 1 {
		t.Errorf("got %q, want only what is recent", got)
	}
}

// Strangers cannot fill the memory.
func TestNoticesAreBounded(t *testing.T) {
	var n notices
	for i := range 10 * noticesKept {
		n.due(fmt.Sprint(i), "x", nil)
	}
	if len(n.last) > noticesKept {
		t.Errorf("%d are kept, want at most %d", len(n.last), noticesKept)
	}
}
