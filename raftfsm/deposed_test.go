package raftfsm

import (
	"testing"
	"time"

	"github.com/hashicorp/raft"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// overtaking is an in-memory transport whose heartbeats are handled beside
// raft's main goroutine, as those of the network are.
type overtaking struct {
	*raft.InmemTransport
	handle func(raft.RPC)
}

func (o *overtaking) SetHeartbeatHandler(handle func(raft.RPC)) { o.handle = handle }

// The first that a leader hears of its successor is a heartbeat. What is given to
// it in that moment must not get into its log under the successor's term, where
// nobody would ever correct it.
func TestDeposedByAHeartbeat(t *testing.T) {
	var all []*overtaking
	c := newCluster(t, 3, func(cfg *Config) {
		cfg.ElectionTimeout, cfg.HeartbeatTimeout = 2*time.Second, 2*time.Second
		o := &overtaking{InmemTransport: cfg.Transport.(*raft.InmemTransport)}
		all = append(all, o)
		cfg.Transport = o
	})
	old, heir := c.leaderAndHeir()
	c.cut(old.id)
	heir.Campaign(old.id)
	until(t, "the heir to lead", heir.Leading)
	answered := make(chan raft.RPCResponse, 1)
	all[old.id-1].handle(raft.RPC{Command: &raft.AppendEntriesRequest{RPCHeader: heir.header(), Term: heir.Term()}, RespChan: answered})
	ghost := encode(t, entryHead{member: 9, batch: 1, time: 1}, &pb.PutRequest{Key: []byte("ghost"), Value: []byte("1")})
	_ = old.raft.Apply(ghost, 0)
	<-answered
	c.cut()
	heir.put("k", "new")
	until(t, "the old leader to follow", func() bool { return old.value("k") == "new" })
	if got := old.value("ghost"); got != "" {
		t.Errorf("the old leader has %q, which nobody agreed on", got)
	}
	if old.hash() != heir.hash() {
		t.Error("the states of two members differ")
	}
}
