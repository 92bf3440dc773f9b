package peer

import (
	"fmt"
	"testing"
	"time"
)

// What happens again and again is said once, and shown as it last was.
func TestNotices(t *testing.T) {
	var n Notices
	if !n.Add("a", "refused", "member", "a", "reason", "one") {
		t.Error("the first is not due")
	}
	if n.Add("a", "refused", "member", "a", "reason", "two") {
		t.Error("the same is due again")
	}
	if !n.Add("b", "closed", "remote", "x", "address", "y", "error", fmt.Errorf("three")) {
		t.Error("another is not due")
	}
	got := n.Recent()
	if len(got) != 2 || got[0].Text != "closed (remote x, address y): three" || got[1].Text != "refused (member a): two" {
		t.Errorf("got %q, want the newest first", got)
	}
	n.last["a"].said = time.Now().Add(-noticeEvery)
	if !n.Add("a", "refused") {
		t.Error("not due after so long")
	}
	n.last["a"].Time = time.Now().Add(-2 * noticeStays)
	if got := n.Recent(); len(got) != 1 || len(n.last) != 1 {
		t.Errorf("got %q, want only what is recent", got)
	}
}

// Strangers cannot fill the memory.
func TestNoticesAreBounded(t *testing.T) {
	var n Notices
	for i := range 10 * noticesKept {
		n.Add(fmt.Sprint(i), "x")
	}
	if len(n.last) > noticesKept {
		t.Errorf("%d are kept, want at most %d", len(n.last), noticesKept)
	}
}

// What stands is shown however old it is, and whatever strangers do.
func TestNoticesThatStand(t *testing.T) {
	var n Notices
	n.Stand("plain", "peers are plain", "url", "http://a:1")
	n.last["plain"].Time = time.Now().Add(-2 * noticeStays)
	for i := range 2 * noticesKept {
		n.Add(fmt.Sprint(i), "x")
	}
	got := n.Recent()
	if last := got[len(got)-1]; last.Text != "peers are plain (url http://a:1)" || len(got) > noticesKept+1 {
		t.Errorf("of %d notices the oldest is %q", len(got), last.Text)
	}
}
