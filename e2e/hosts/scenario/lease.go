//go:build linux

package scenario

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

const leaseSeconds = 5

// leasesOutliveTheLeader keeps one lease alive through a follower and neglects another, while the
// leader, which alone knows their deadlines, is killed.
func leasesOutliveTheLeader(t *testing.T, c *Cluster) {
	s := begin(t, c)
	old := c.Leader(c.Members()...)
	follower := c.Others(old)[0]
	client := c.Client(follower)
	s.leased(client, "lease/neglected")
	kept := s.keepAlive(client, s.leased(client, "lease/kept"))
	kept.refreshed(s)
	old.Process.Kill()
	c.Leader(c.Others(old)...)

	// The new leader has given both their full time again.
	s.gone(follower, "lease/neglected")
	kept.refreshed(s)
	if n := s.count(follower, "lease/kept"); n != 1 {
		t.Errorf("the key of the lease that was kept alive is there %d times", n)
	}
	kept.stop()
	s.gone(follower, "lease/kept")

	old.Start()
	old.Serves()
	for _, key := range []string{"lease/kept", "lease/neglected"} {
		if n := s.count(old, key); n != 0 {
			t.Errorf("%s is there %d times at %s, which was dead when its lease ended", key, n, old.Name)
		}
	}
	s.end()
}

// leasesOutliveAPause pauses the leader until its clock says that a lease has ended which is kept alive
// at the next leader.
func leasesOutliveAPause(t *testing.T, c *Cluster) {
	s := begin(t, c)
	old := c.Leader(c.Members()...)
	follower := c.Others(old)[0]
	client := c.Client(follower)
	kept := s.keepAlive(client, s.leased(client, "lease/kept"))
	kept.refreshed(s)
	old.Process.Pause()
	paused := time.Now()
	c.Leader(c.Others(old)...)
	kept.refreshed(s)
	c.Eventually("the lease to end by the old leader's clock", func(context.Context) error {
		if left := (leaseSeconds+2)*time.Second - time.Since(paused); left > 0 {
			return fmt.Errorf("%v left", left)
		}
		return nil
	})
	old.Process.Continue()
	s.stillKept(kept, follower)
}

// leasesAtAStalledLeader freezes the leader's disk. From when another one ends a lease, the old one must
// not renew it any more; and when it is well again, it must end none that was kept alive elsewhere.
func leasesAtAStalledLeader(t *testing.T, c *Cluster) {
	s := begin(t, c)
	old := c.Leader(c.Members()...)
	follower := c.Others(old)[0]
	client := c.Client(follower)
	neglected := s.leased(client, "lease/neglected")
	kept := s.keepAlive(client, s.leased(client, "lease/kept"))
	old.Disk.Freeze()
	c.Leader(c.Others(old)...)
	s.gone(follower, "lease/neglected")
	if ttl, err := renewOnce(t.Context(), old, neglected); err == nil && ttl > 0 {
		t.Errorf("the old leader renews a lease that has ended, for %d s", ttl)
	}
	old.Disk.Thaw()
	s.stillKept(kept, follower)
}

// stillKept ends a story in which a lease was kept alive all the time.
func (s *story) stillKept(kept *keeper, m *Member) {
	s.t.Helper()
	s.Leader(s.Members()...)
	s.goesOn()
	kept.refreshed(s)
	if n := s.count(m, "lease/kept"); n != 1 {
		s.t.Errorf("the key of the lease that was kept alive is there %d times", n)
	}
	kept.stop()
	s.end()
}

// renewOnce asks m to keep a lease alive.
func renewOnce(ctx context.Context, m *Member, id clientv3.LeaseID) (ttl int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, leaseSeconds*time.Second)
	defer cancel()
	stream, err := pb.NewLeaseClient(m.Conn).LeaseKeepAlive(ctx)
	if err != nil {
		return 0, err
	}
	if err := stream.Send(&pb.LeaseKeepAliveRequest{ID: int64(id)}); err != nil {
		return 0, err
	}
	resp, err := stream.Recv()
	return resp.GetTTL(), err
}

// leased puts a key with a lease of its own.
func (s *story) leased(client *clientv3.Client, key string) clientv3.LeaseID {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	lease, err := client.Grant(ctx, leaseSeconds)
	if err == nil {
		_, err = client.Put(ctx, key, "", clientv3.WithLease(lease.ID))
	}
	if err != nil {
		s.t.Fatalf("put %s with a lease: %v", key, err)
	}
	return lease.ID
}

// keeper keeps a lease alive.
type keeper struct {
	answers atomic.Int64
	stop    context.CancelFunc
}

func (s *story) keepAlive(client *clientv3.Client, id clientv3.LeaseID) *keeper {
	s.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	s.t.Cleanup(cancel)
	answers, err := client.KeepAlive(ctx, id)
	if err != nil {
		s.t.Fatalf("keep lease %x alive: %v", id, err)
	}
	k := &keeper{stop: cancel}
	// Owner: the keeper; ends when stop, or the test's cleanup, cancels ctx.
	go func() {
		for range answers {
			k.answers.Add(1)
		}
	}()
	return k
}

// refreshed waits for some more keepalives to be answered.
func (k *keeper) refreshed(s *story) {
	s.t.Helper()
	want := k.answers.Load() + 2
	s.Eventually("keepalives", func(context.Context) error {
		if got := k.answers.Load(); got < want {
			return fmt.Errorf("%d were answered, want %d", got, want)
		}
		return nil
	})
}

func (s *story) gone(m *Member, key string) {
	s.t.Helper()
	s.Eventually(key+" vanishes", func(ctx context.Context) error {
		resp, err := pb.NewKVClient(m.Conn).Range(ctx, &pb.RangeRequest{Key: []byte(key)})
		if err == nil && resp.Count > 0 {
			err = fmt.Errorf("it is there: %v", resp.Kvs)
		}
		return err
	})
}

func (s *story) count(m *Member, key string) (count int64) {
	s.t.Helper()
	s.Eventually("count "+key, func(ctx context.Context) error {
		resp, err := pb.NewKVClient(m.Conn).Range(ctx, &pb.RangeRequest{Key: []byte(key)})
		count = resp.GetCount()
		return err
	})
	return count
}
