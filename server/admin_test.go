package server

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"limpet/cluster"
)

// Who may read a data directory may take its member out of the cluster, without
// knowing ports, users or certificates; the last one stays.
func TestLeave(t *testing.T) {
	members := startThree(t)
	for left := 3; left > 1; left-- {
		// The leader, too, can go.
		i := slices.IndexFunc(members, func(m *member) bool { return m.node.Leading() })
		if i < 0 {
			eventually(t, "a leader", func() bool {
				i = slices.IndexFunc(members, func(m *member) bool { return m.node.Leading() })
				return i >= 0
			})
		}
		gone := members[i]
		members = slices.Delete(members, i, i+1)
		admin := AdminOf(gone.cfg.DataDir)
		eventually(t, "leaving", func() bool {
			err := admin.Leave(t.Context()) // etcd's rules may want the others to be connected for longer
			if err != nil {
				t.Log(err)
			}
			return err == nil
		})
		if err := <-gone.Failed(); !errors.Is(err, cluster.ErrRemoved) {
			t.Errorf("the member that left ends with %v, want %v", err, cluster.ErrRemoved)
		}
		gone.stop()
		if id, err := readIdentity(gone.cfg.DataDir); err != nil || !id.Removed {
			t.Errorf("its data directory says %+v, %v; want that it was removed", id, err)
		}
	}
	if err := AdminOf(members[0].cfg.DataDir).Leave(t.Context()); !errors.Is(err, ErrOnlyMember) {
		t.Errorf("the last one leaves: got %v, want %v", err, ErrOnlyMember)
	}
	members[0].put("k", "still here")
}

// Where there is no token, nobody can replace it, and the socket says so.
func TestAdminWithoutToken(t *testing.T) {
	m := start(t, newConfig(t))
	if _, err := AdminOf(m.cfg.DataDir).RotateToken(t.Context()); err == nil || !strings.Contains(err.Error(), "has no token") {
		t.Errorf("a token is replaced: got %v, want that there is none", err)
	}
}
