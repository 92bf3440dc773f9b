package server

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"limpet/cluster"
	"limpet/discovery"
	"limpet/peer"
)

// startThree starts three members that found a cluster together.
func startThree(t *testing.T) []*member {
	t.Helper()
	return startAll(t, threeFounders(t)...)
}

// threeFounders are m1, m2 and m3, which know of each other.
func threeFounders(t *testing.T) []Config {
	t.Helper()
	var cfgs []Config
	var founders []string
	for i := range 3 {
		cfg := newConfig(t)
		cfg.Name = fmt.Sprint("m", i+1)
		cfgs = append(cfgs, cfg)
		founders = append(founders, cfg.Name+"="+cfg.AdvertisePeerURLs[0])
	}
	for i := range cfgs {
		cfgs[i].InitialCluster = strings.Join(founders, ",")
	}
	return cfgs
}

// A member that is left without a leader still tells who answers and how much they
// have: that is when people look.
func TestReportWithoutLeader(t *testing.T) {
	members := startThree(t)
	members[0].put("k", "v")
	left, off := members[0], members[1:]
	for _, m := range off {
		m.stop()
	}
	var r *cluster.Report
	eventually(t, "no leader", func() bool { r = left.local.Report(t.Context()); return r.Leader == "" })
	for _, m := range r.Members {
		self := m.Name == left.cfg.Name
		if m.Answers != self || self && (m.Index == 0 || m.Lag != 0) || m.Role != "voter" {
			t.Errorf("of %s: %+v, want that %s alone answers, and lacks nothing that it knows of", m.Name, m, left.cfg.Name)
		}
	}
	if len(r.Members) != 3 {
		t.Errorf("%d members in the report, want 3", len(r.Members))
	}
}

// Each member tells what it counts of each other one, by its ID in hex, and no
// more of one that was removed.
func TestPeerMetrics(t *testing.T) {
	members := startThree(t)
	series := func(m *member) string {
		_, body := httpGet(t, m.cfg.ListenClientURLs[0]+"/metrics")
		return "\n" + body
	}
	ids := [3]string{}
	for i, m := range members {
		ids[i] = fmt.Sprintf("%x", m.dir.now().member())
	}
	for i, m := range members {
		for j, other := range ids {
			if i == j {
				continue
			}
			for _, want := range []string{
				fmt.Sprintf("\netcd_network_known_peers{Local=%q,Remote=%q} 1\n", ids[i], other),
				fmt.Sprintf("\netcd_network_active_peers{Local=%q,Remote=%q} 1\n", ids[i], other),
				fmt.Sprintf("\netcd_network_disconnected_peers_total{Local=%q,Remote=%q} ", ids[i], other),
				fmt.Sprintf("\netcd_network_peer_received_failures_total{From=%q} ", other),
				fmt.Sprintf("\netcd_network_peer_sent_failures_total{To=%q} ", other),
				fmt.Sprintf("\netcd_network_peer_round_trip_time_seconds_bucket{To=%q,le=\"0.0001\"} ", other),
			} {
				eventually(t, "at m"+fmt.Sprint(i+1)+want, func() bool { return strings.Contains(series(m), want) })
			}
			for _, name := range []string{"peer_sent_bytes_total{To", "peer_received_bytes_total{From", "peer_round_trip_time_seconds_count{To"} {
				prefix := fmt.Sprintf("\netcd_network_%s=%q} ", name, other)
				eventually(t, "more than 0 at m"+fmt.Sprint(i+1)+prefix, func() bool {
					text := series(m)
					return strings.Contains(text, prefix) && !strings.Contains(text, prefix+"0\n")
				})
			}
		}
	}

	gone := members[2].dir.id.member()
	eventually(t, "the removal", func() bool {
		_, err := pb.NewClusterClient(members[0].conn).MemberRemove(t.Context(), &pb.MemberRemoveRequest{ID: gone})
		return err == nil || strings.Contains(err.Error(), "member not found")
	})
	eventually(t, "its series to go", func() bool {
		text := series(members[0])
		return !strings.Contains(text, fmt.Sprintf("To=%q", ids[2])) && !strings.Contains(text, fmt.Sprintf("From=%q", ids[2])) &&
			strings.Contains(text, fmt.Sprintf("\netcd_network_known_peers{Local=%q,Remote=%q} 0\n", ids[0], ids[2]))
	})
}

// A member whose data directory still has the name under which another founder
// began goes by the one that was agreed on, at once and after a restart.
func TestClusterIDIsTheOneAgreedOn(t *testing.T) {
	cfg := newConfig(t)
	m := start(t, cfg)
	m.put("k", "v")
	want := m.dir.now().cluster()
	m.stop()
	file := filepath.Join(cfg.DataDir, identityName)
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	named := fmt.Sprintf("%q: %q", "cluster_id", strconv.FormatUint(want, 16))
	stale := strings.Replace(string(data), named, `"cluster_id": "77", "forming": true`, 1)
	if stale == string(data) {
		t.Fatalf("no %s in %s", named, data)
	}
	if err := os.WriteFile(file, []byte(stale), 0o600); err != nil {
		t.Fatal(err)
	}
	m = start(t, cfg)
	resp, err := m.kv.Range(t.Context(), &pb.RangeRequest{Key: []byte("k")})
	if err != nil || resp.Header.ClusterId != want {
		t.Errorf("an answer names cluster %x, %v; want %x", resp.GetHeader().GetClusterId(), err, want)
	}
	eventually(t, "the name to be written down", func() bool { return m.dir.now().cluster() == want && !m.dir.now().Forming })
}

// What gossip complains of is in the report that limpet status shows.
func TestGossipComplaintIsANotice(t *testing.T) {
	cfg := newConfig(t)
	cfg.Token, cfg.GossipAddress = "000102030405060708090a0b0c0d0e0f", strings.TrimPrefix(freeURL(t), "http://")
	m := start(t, cfg)
	g, err := discovery.Open(discovery.Config{
		Bind: "127.0.0.1:0", Label: "limpet", Key: make([]byte, discovery.KeySize), Self: discovery.Info{ID: 1, Instance: 1, Peer: "127.0.0.1:1"},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = g.Close() }()
	eventually(t, "a notice of the other token", func() bool {
		if _, err := g.Join(t.Context(), []string{m.gossip.Addr()}); err == nil {
			t.Fatal("a member with another token is let in")
		}
		return slices.ContainsFunc(m.local.Report(t.Context()).Notices, func(n peer.Notice) bool {
			return strings.Contains(n.Text, "its token differs from this member's")
		})
	})
}
