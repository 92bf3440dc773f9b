//go:build linux

package scenario

import (
	"os"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"limpet/e2e/proc"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// etcd is the reference: static members, plain http.
var etcd = Program{
	Kind:      proc.Etcd,
	Flags:     etcdFlags,
	TookImage: "applied snapshot",
	// A removed member gives raft's own error with code Unknown (togRPCError does not know it).
	Excused: []string{"raft: stopped"},
}

func etcdFlags(m *Member, members []*Member, founding bool) []string {
	state := "existing"
	if founding {
		state = "new"
	}
	var initial []string
	for _, o := range members {
		initial = append(initial, o.Name+"="+o.PeerURL())
	}
	flags := []string{
		"--name=" + m.Name,
		"--data-dir=" + m.DataDir,
		"--listen-client-urls=http://0.0.0.0:2379", // the host's address may change
		"--advertise-client-urls=" + m.ClientURL(),
		"--listen-peer-urls=http://0.0.0.0:2380",
		"--initial-advertise-peer-urls=" + m.PeerURL(),
		"--initial-cluster=" + strings.Join(initial, ","),
		"--initial-cluster-state=" + state,
	}
	if m.ShortLog {
		flags = append(flags, "--snapshot-count=100", "--snapshot-catchup-entries=10")
	}
	return flags
}

// TestEtcd judges the stories themselves: the reference must pass them.
func TestEtcd(t *testing.T) {
	if os.Getenv("E2E_REFERENCE") == "" {
		t.Skip("etcd passes these stories; E2E_REFERENCE=1 lets it prove so")
	}
	var names []string
	for _, s := range All {
		names = append(names, s.Name)
	}
	Run(t, etcd, names...)
}
