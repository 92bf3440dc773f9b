package cluster

import (
	"slices"
	"testing"

	"limpet/txn"
)

// A member that reports itself does not undo an update of its peer URLs which was
// agreed on after it looked.
func TestReportLeavesAnUpdate(t *testing.T) {
	t.Parallel()
	b := founded(t, 3)[1]
	n := b.running()
	until(t, "everybody to read such reports", n.PartReports)
	// As a member sees itself that was upgraded just now.
	cfg := *b.local.me.cfg
	cfg.Version = "0.2"
	upgraded := &keeper{me: &standing{cfg: &cfg, id: b.identity(), name: b.name}}
	report := upgraded.news(n)
	if report == nil || report.Version != "0.2" {
		t.Fatalf("of a new version, the report is %+v", report)
	}

	urls := []string{b.url(), "http://127.0.0.1:1"}
	for _, cmd := range []txn.Command{&txn.MemberUpdate{ID: b.identity().Member, PeerURLs: urls}, report} {
		if _, err := n.Propose(t.Context(), cmd); err != nil {
			t.Fatalf("%T: %v", cmd, err)
		}
	}
	if got := n.Membership().Self.PeerURLs; !slices.Equal(got, urls) {
		t.Errorf("after the update and the report: got peer URLs %v, want %v", got, urls)
	}
}
