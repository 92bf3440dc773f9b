package cli

import (
	"bytes"
	"strings"
	"testing"

	"limpet/cluster"
)

// Members of two versions, one of which comes into raft, and one of which never
// started.
func TestPrintReport(t *testing.T) {
	r := &cluster.Report{
		Member: "1", Name: "a", Cluster: "c", Leader: "1",
		Members: []cluster.MemberReport{
			{ID: "1", Name: "a", Role: "leader", Version: "0.4", Format: 2, Answers: true, PeerURLs: []string{"http://a:2380"}},
			{ID: "2", Name: "b", Role: "joining", Version: "0.3", Format: 1, Answers: true, Lag: 3, ContactMs: 20, SyncMicro: 1234},
			{ID: "3", Role: "not started"},
			{ID: "4", Name: "d", Role: "voter", Version: "0.4", Format: 2, Answers: true, ContactMs: -1, SyncMicro: 15_000_000},
		},
	}
	var out bytes.Buffer
	if err := printReport(&out, r); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"cluster c, seen from a\n", " joining ", " 1.23ms ", " slow disk ", " never ", " 15s ", "the log keeps an older format until these are upgraded: b (0.3)\n"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
	r.Leader, r.Members[1].Answers = "", false
	out.Reset()
	if err := printReport(&out, r); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"has no leader that a can see", " ok ", " away ", " slow disk "} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("without a leader: no %q in\n%s", want, out.String())
		}
	}
	if strings.Contains(out.String(), " never ") {
		t.Errorf("without a leader nobody counts contacts:\n%s", out.String())
	}
	for i := range r.Members {
		r.Members[i].Answers = false
	}
	out.Reset()
	if err := printReport(&out, r); err != nil || strings.Contains(out.String(), "away") {
		t.Errorf("a leader that does not answer tells nothing of anybody (%v):\n%s", err, out.String())
	}
	r.Members[1].Format = 2
	if got := holdsBack(r.Members); got != "" {
		t.Errorf("all read the newest format: %q holds back", got)
	}
}
