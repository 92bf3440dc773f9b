package e2e

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"limpet/e2e/side"
)

// allowedMetrics are families of etcd's that another program need not have, or may have with
// another type.
var allowedMetrics = map[string]string{
	"go_":             "the Go runtime's own list follows the Go version and the client library",
	"process_network": "read from /proc by some versions of the client library only",
}

// equalSamples are series whose value a client can predict from its requests alone, and which
// tools therefore compare with a number.
var equalSamples = []string{
	`etcd_mvcc_put_total`,
	`etcd_mvcc_delete_total`,
	`etcd_mvcc_txn_total`,
	`etcd_debugging_mvcc_keys_total`,
	`etcd_debugging_mvcc_events_total`,
	`etcd_debugging_mvcc_current_revision`,
	`etcd_debugging_mvcc_compact_revision`,
	`etcd_debugging_mvcc_watcher_total`,
	`etcd_debugging_mvcc_watch_stream_total`,
	`etcd_debugging_mvcc_slow_watcher_total`,
	`etcd_debugging_mvcc_pending_events_total`,
	`etcd_debugging_lease_granted_total`,
	`etcd_debugging_lease_revoked_total`,
	`etcd_debugging_lease_renewed_total`,
	`etcd_debugging_server_lease_expired_total`,
	`etcd_debugging_auth_revision`,
	`etcd_server_has_leader`,
	`etcd_server_is_leader`,
	`etcd_server_is_learner`,
	`etcd_server_leader_changes_seen_total`,
	`etcd_server_proposals_pending`,
	`etcd_server_quota_backend_bytes`,
	`etcd_server_health_success`,
	`etcd_server_health_failures`,
	`etcd_server_learner_promote_successes`,
	`etcd_server_version`,
	`etcd_cluster_version`,
	`etcd_server_id`,
	`etcd_network_known_peers`,
	`etcd_server_client_requests_total`,
	`etcd_disk_defrag_inflight`,
	`grpc_server_started_total`,
	`grpc_server_handled_total`,
}

// TestMetrics sends the same traffic to both servers and compares what they count.
func TestMetrics(t *testing.T) {
	pair := side.NewPair(t, subject())
	traffic(pair)
	want, got := scrape(t, pair.Reference), scrape(t, pair.Subject)

	t.Run("families", func(t *testing.T) {
		for _, name := range slices.Sorted(maps.Keys(want)) {
			if reason(name) != "" {
				continue
			}
			switch g := got[name]; {
			case g == nil:
				t.Errorf("%s (%v) is missing", name, want[name].GetType())
			case g.GetType() != want[name].GetType():
				t.Errorf("%s: got type %v, want %v", name, g.GetType(), want[name].GetType())
			}
		}
	})
	t.Run("samples", func(t *testing.T) {
		for _, name := range equalSamples {
			ws, gs := samples(pair.Reference, want[name]), samples(pair.Subject, got[name])
			// A series that is not there counts as 0, as it does in a query.
			either := maps.Clone(ws)
			maps.Copy(either, gs)
			for _, series := range slices.Sorted(maps.Keys(either)) {
				if gs[series] != ws[series] {
					t.Errorf("%s: got %v, want %v", series, gs[series], ws[series])
				}
			}
		}
	})
	t.Run("as tools read them", func(t *testing.T) {
		pair := side.NewPair(t, subject())
		pair.Do(put("a", "1"))
		pair.Do(put("a", "2"))
		for range 3 {
			pair.Do(remove("a", ""))
			pair.Do(put("a", "3"))
		}
		for _, target := range pair.Targets() {
			text := scrapeText(t, target)
			for _, line := range []string{
				"etcd_mvcc_put_total 5",
				"etcd_mvcc_delete_total 3",
				"etcd_debugging_mvcc_keys_total 1",
				"etcd_server_is_learner 0",
				`etcd_cluster_version{cluster_version="3.7"} 1`,
			} {
				if !strings.Contains(text, "\n"+line+"\n") {
					t.Errorf("%s: no line %q", target.Label, line)
				}
			}
		}
	})
}

// traffic is some of everything that is counted, and nothing that depends on time.
func traffic(pair *side.Pair) {
	for i := range 5 {
		pair.Do(put(fmt.Sprintf("k%d", i), "v"))
	}
	pair.Do(txn(&pb.TxnRequest{Success: []*pb.RequestOp{putOp("k1", "w"), putOp("k9", "w")}}))
	pair.Do(txn(&pb.TxnRequest{}))
	pair.Do(put("", ""))
	pair.Do(remove("k0", "k2"))
	pair.Do(remove("nothing", ""))
	pair.Do(get("k1"))
	pair.Do(all())
	pair.Do(side.Stream{Request: &pb.RangeRequest{Key: []byte("k"), RangeEnd: []byte("l")}})
	pair.Do(list(&pb.RangeRequest{Key: []byte("k"), Revision: 1 << 40}))
	for id := int64(1); id <= 3; id++ {
		pair.Do(grant(id, 1000))
	}
	pair.Do(side.KeepAlive{IDs: []int64{1, 2, 99}})
	pair.Do(revoke(1))
	pair.Do(timeToLive(2))
	pair.Do(leases())
	pair.Do(compact(3))
	pair.Do(hashKV(0))
	pair.Do(status())
	pair.Do(defragment())
	pair.Do(side.Snapshot{})
	pair.Do(alarm(pb.AlarmRequest_GET, pb.AlarmType_NONE))
	for h := 1; h <= 3; h++ {
		for _, s := range watchAll(h, 0) {
			pair.Do(s)
		}
	}
	pair.Do(put("watched", "1"))
	for h := 1; h <= 3; h++ {
		pair.Do(events(h, 1))
	}
	for range 3 {
		pair.Do(side.HTTP{Method: "GET", Path: "/health"})
	}
	pair.Do(side.HTTP{Method: "GET", Path: "/readyz"})
	pair.Do(side.WatchClose{Handle: 1})
	pair.Do(side.WatchClose{Handle: 2})
	// The server hears of the two ends at its own time.
	for _, target := range pair.Targets() {
		eventually(target, side.HTTP{Method: "GET", Path: "/metrics"}, func(a side.Answer) bool {
			return strings.Contains(a.Fields["body"], `grpc_server_handled_total{grpc_code="Canceled",grpc_method="Watch",grpc_service="etcdserverpb.Watch",grpc_type="bidi_stream"} 2`)
		})
	}
}

func reason(name string) string {
	for prefix, why := range allowedMetrics {
		if strings.HasPrefix(name, prefix) {
			return why
		}
	}
	return ""
}

func scrapeText(t *testing.T, target *side.Target) string {
	t.Helper()
	a := side.HTTP{Method: http.MethodGet, Path: "/metrics"}.Run(t.Context(), target)
	if a.Fields["status"] != "HTTP/1.1 200 OK" {
		t.Fatalf("%s: /metrics answered %.200s", target.Label, a)
	}
	return "\n" + a.Fields["body"]
}

func scrape(t *testing.T, target *side.Target) map[string]*dto.MetricFamily {
	t.Helper()
	parser := expfmt.NewTextParser(model.LegacyValidation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(scrapeText(t, target)))
	if err != nil {
		t.Fatalf("%s: /metrics does not parse: %v", target.Label, err)
	}
	return families
}

// samples gives the series of a family by name and labels.
func samples(target *side.Target, family *dto.MetricFamily) map[string]float64 {
	values := map[string]float64{}
	for _, m := range family.GetMetric() {
		var labels []string
		for _, l := range m.Label {
			labels = append(labels, fmt.Sprintf("%s=%q", l.GetName(), target.Names.Text(l.GetValue())))
		}
		slices.Sort(labels)
		series := fmt.Sprintf("%s{%s}", family.GetName(), strings.Join(labels, ","))
		values[series] = m.GetCounter().GetValue() + m.GetGauge().GetValue() + m.GetUntyped().GetValue()
	}
	return values
}
