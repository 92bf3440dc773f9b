package e2e

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	dto "github.com/prometheus/client_model/go"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"limpet/e2e/side"
)

// learnedServices are the services whose calls a learner is asked for.
var learnedServices = []protoreflect.FullName{
	"etcdserverpb.KV", "etcdserverpb.Watch", "etcdserverpb.Lease", "etcdserverpb.Cluster", "etcdserverpb.Maintenance", "grpc.health.v1.Health",
}

// requireLeader is what clients send to be told when there is no leader.
var requireLeader = map[string]string{"hasleader": "true"}

// method finds a method by its full name.
func method(t *testing.T, name protoreflect.FullName) protoreflect.MethodDescriptor {
	t.Helper()
	d, err := protoregistry.GlobalFiles.FindDescriptorByName(name)
	if err != nil {
		t.Fatal(err)
	}
	return d.(protoreflect.MethodDescriptor)
}

// restricted calls everything there is, with an empty request.
func restricted(t *testing.T, c *side.Clusters, n int) {
	for _, name := range learnedServices {
		d, err := protoregistry.GlobalFiles.FindDescriptorByName(name)
		if err != nil {
			t.Fatal(err)
		}
		methods := d.(protoreflect.ServiceDescriptor).Methods()
		for i := range methods.Len() {
			m := methods.Get(i)
			switch {
			case m.Name() == "Snapshot" || string(name) == "grpc.health.v1.Health" && m.Name() == "Watch":
				// answered, at length or without end
			case m.IsStreamingServer() || m.IsStreamingClient():
				c.At(n).Do(side.Open{Method: m})
			default:
				c.At(n).Do(side.Empty{Method: m})
			}
		}
	}
}

// healthOf asks the health paths of one member.
func healthOf(t *testing.T, c *side.Clusters, n int) {
	t.Helper()
	for _, path := range []string{
		"/health", "/health?serializable=true", "/livez", "/livez?verbose", "/readyz", "/readyz?verbose", "/readyz?exclude=non_learner&verbose",
		"/readyz/non_learner", "/readyz/linearizable_read", "/readyz/serializable_read", "/readyz/data_corruption", "/livez/serializable_read", "/version",
	} {
		c.At(n).Do(side.HTTP{Method: "GET", Path: path, Unordered: true})
	}
}

// memberFigures are series that say what part a member has; founderFigures those too that grow with
// each entry applied, which a member that came later may have got as an image instead.
var (
	memberFigures = []string{
		"etcd_server_has_leader", "etcd_server_is_leader", "etcd_server_is_learner",
		"etcd_server_proposals_pending", "etcd_server_id", "etcd_cluster_version", "etcd_server_version",
		"etcd_server_learner_promote_successes",
		"etcd_debugging_mvcc_keys_total", "etcd_debugging_mvcc_current_revision", "etcd_debugging_mvcc_compact_revision",
	}
	founderFigures = append([]string{
		"etcd_mvcc_put_total", "etcd_mvcc_delete_total",
		"etcd_debugging_lease_granted_total", "etcd_debugging_lease_revoked_total", "etcd_debugging_lease_renewed_total",
	}, memberFigures...)
	// growingFigures are series whose value depends on how raft went about it, or on how often a step
	// had to be asked again until it was accepted.
	growingFigures = []string{
		"etcd_server_learner_promote_failures",
		"etcd_server_leader_changes_seen_total", "etcd_server_proposals_committed_total", "etcd_server_proposals_applied_total",
	}
)

// peerFigures are families with a series for each other member. What a member counts there depends
// on how the two programs speak; that it counts does not.
var peerFigures = []string{
	"etcd_network_active_peers", "etcd_network_disconnected_peers_total",
	"etcd_network_peer_sent_bytes_total", "etcd_network_peer_received_bytes_total", "etcd_network_peer_sent_failures_total",
}

// comparePeers reads what one member tells of the others.
func comparePeers(t *testing.T, c *side.Clusters, n int) {
	t.Helper()
	at := c.At(n)
	want := scrape(t, at.Reference)
	err := eventually(at.Subject, side.HTTP{Method: "GET", Path: "/metrics"}, func(side.Answer) bool {
		return len(missingPeers(t, at, want)) == 0
	})
	if err != nil {
		t.Errorf("m%d does not tell as etcd does: %v", n, missingPeers(t, at, want))
	}
}

// missingPeers are series that the subject lacks, or has otherwise. Those of removed members etcd
// keeps; it also names some senders as member 0.
func missingPeers(t *testing.T, at *side.Pair, want map[string]*dto.MetricFamily) (missing []string) {
	t.Helper()
	got := scrape(t, at.Subject)
	const known = "etcd_network_known_peers"
	skip := []string{`"0"`}
	ws, gs := samples(at.Reference, want[known]), samples(at.Subject, got[known])
	if !maps.Equal(ws, gs) {
		missing = append(missing, fmt.Sprintf("%v, it has %v", ws, gs))
	}
	for series, w := range ws {
		if _, remote, _ := strings.Cut(series, "Remote="); w == 0 {
			skip = append(skip, strings.TrimSuffix(remote, "}"))
		}
	}
	for _, name := range peerFigures {
		if want[name] != nil && got[name].GetType() != want[name].GetType() {
			missing = append(missing, fmt.Sprintf("%s as %v", name, want[name].GetType()))
		}
		gs := samples(at.Subject, got[name])
		for series, w := range samples(at.Reference, want[name]) {
			if slices.ContainsFunc(skip, func(id string) bool { return strings.Contains(series, id) }) {
				continue
			}
			g, known := gs[series]
			switch {
			case !known,
				want[name].GetType() == dto.MetricType_GAUGE && g != w,
				strings.Contains(name, "bytes") && g == 0:
				missing = append(missing, fmt.Sprintf("%s %v, it has %v", series, w, g))
			}
		}
	}
	return missing
}

// compareFigures reads the metrics of one member.
func compareFigures(t *testing.T, c *side.Clusters, n int, equal []string) {
	t.Helper()
	at := c.At(n)
	want, got := scrape(t, at.Reference), scrape(t, at.Subject)
	for _, name := range equal {
		ws, gs := samples(at.Reference, want[name]), samples(at.Subject, got[name])
		for series, w := range ws {
			if gs[series] != w {
				t.Errorf("m%d: %s: got %v, want %v", n, series, gs[series], w)
			}
		}
	}
	for _, name := range growingFigures {
		ws, gs := samples(at.Reference, want[name]), samples(at.Subject, got[name])
		for series, w := range ws {
			if (w > 0) != (gs[series] > 0) {
				t.Errorf("m%d: %s: got %v, want one like %v", n, series, gs[series], w)
			}
		}
	}
}

func followersHealth(t *testing.T, c *side.Clusters) {
	for n := 1; n <= 3; n++ {
		healthOf(t, c, n)
		compareFigures(t, c, n, founderFigures)
		comparePeers(t, c, n)
	}
}

func ctlOfMembers(t *testing.T, c *side.Clusters) {
	for _, format := range []string{"simple", "table", "json", "fields"} {
		ctl(t, c, 2, "member", "list", "-w", format)
		ctl(t, c, 2, "endpoint", "status", "--cluster", "-w", format)
	}
	ctl(t, c, 3, "member", "list", "--consistency=s")
	ctl(t, c, 3, "member", "list", "--hex", "-w", "json")
	ctl(t, c, 2, "endpoint", "health", "--cluster")
	ctl(t, c, 1, "endpoint", "hashkv", "--cluster")
	ctl(t, c, 1, "member", "promote", "7b00000000000002")
	ctl(t, c, 1, "member", "remove", "1234")
	ctl(t, c, 1, "member", "remove", "not-hex")
	ctl(t, c, 1, "member", "update", "1234", "--peer-urls=http://127.0.0.9:1")
	ctl(t, c, 1, "member", "add", "m9", "--peer-urls=127.0.0.9:1")
	ctl(t, c, 1, "move-leader", "1234")
	ctl(t, c, 2, "move-leader", "1234")
}
