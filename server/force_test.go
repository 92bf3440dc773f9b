package server

import (
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// What k3s calls cluster-reset: one of three starts with --force-new-cluster and
// is a cluster of its own, with the data and a higher revision; the flag may stay.
func TestForceNewCluster(t *testing.T) {
	members := startThree(t)
	members[0].put("a", "1")
	cfg := members[0].cfg
	for _, m := range members {
		eventually(t, "the key at all members", func() bool { return m.store.Rev() == members[0].store.Rev() })
	}
	for _, m := range members {
		m.stop()
	}
	cfg.ForceNewCluster = true
	m := start(t, cfg)
	m.wantValue("a", "1")
	first := m.put("b", "2")
	if first < recoverBump {
		t.Errorf("revision %d, want it beyond all that the others can have acknowledged", first)
	}
	list, err := pb.NewClusterClient(m.conn).MemberList(t.Context(), &pb.MemberListRequest{})
	if err != nil || len(list.Members) != 1 || list.Members[0].Name != cfg.Name {
		t.Errorf("members: got %v, %v, want %s alone", list.GetMembers(), err, cfg.Name)
	}
	m.stop()

	m = start(t, cfg)
	if next := m.put("b", "3"); next != first+1 {
		t.Errorf("a second start with the flag: revision %d after %d, want nothing forced", next, first)
	}
}

// A new member has nobody to leave behind.
func TestForceNewClusterOfNothing(t *testing.T) {
	cfg := newConfig(t)
	cfg.ForceNewCluster = true
	start(t, cfg).put("a", "1")
}
