package server

import (
	"errors"
	"sync/atomic"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"golang.org/x/sys/unix"
)

// A disk that fills up refuses what adds while there is room for what makes room;
// once there is space, and the operator says so, all goes on.
func TestDiskNearlyFull(t *testing.T) {
	var free atomic.Uint64
	free.Store(1 << 30)
	cfg := newConfig(t)
	cfg.statfs = func(_ string, st *unix.Statfs_t) error {
		*st = unix.Statfs_t{Bsize: 4096, Blocks: (1 << 30) / 4096, Bavail: free.Load() / 4096}
		return nil
	}
	m := start(t, cfg)
	ops := pb.NewMaintenanceClient(m.conn)
	m.put("k", "v")
	if m.alarmed(pb.AlarmType_NOSPACE) {
		t.Fatal("there is an alarm although the disk is empty")
	}
	put := func() error {
		_, err := m.kv.Put(t.Context(), &pb.PutRequest{Key: []byte("k"), Value: []byte("w")})
		return rpctypes.Error(err)
	}
	free.Store(20 << 20) // a fiftieth is more
	eventually(t, "the alarm", func() bool { return errors.Is(put(), rpctypes.ErrNoSpace) })
	if _, err := m.kv.DeleteRange(t.Context(), &pb.DeleteRangeRequest{Key: []byte("k")}); err != nil {
		t.Errorf("a deletion: %v", err)
	}
	if _, err := m.kv.Compact(t.Context(), &pb.CompactionRequest{Revision: 2}); err != nil {
		t.Errorf("a compaction: %v", err)
	}
	disarm := func() {
		t.Helper()
		if _, err := ops.Alarm(t.Context(), &pb.AlarmRequest{Action: pb.AlarmRequest_DEACTIVATE, MemberID: m.dir.now().member(), Alarm: pb.AlarmType_NOSPACE}); err != nil {
			t.Fatal(err)
		}
	}
	disarm() // too early
	eventually(t, "the alarm again", func() bool { return errors.Is(put(), rpctypes.ErrNoSpace) })
	free.Store(1 << 30)
	disarm()
	for range 100 {
		if err := put(); err != nil {
			t.Fatalf("with space again: %v", err)
		}
	}
}

func TestScarce(t *testing.T) {
	const mib = 1 << 20
	for _, c := range []struct {
		total, free uint64
		want        bool
	}{
		{51 * mib, 9 * mib, false},
		{51 * mib, 7 * mib, true},
		{1 << 30, 22 * mib, false},
		{1 << 30, 20 * mib, true},
		{32 << 30, 65 * mib, false},
		{32 << 30, 63 * mib, true},
	} {
		p := newSpace("/gone", "/d")
		p.statfs = func(dir string, st *unix.Statfs_t) error {
			if dir == "/gone" {
				return unix.ENOENT
			}
			*st = unix.Statfs_t{Bsize: 1024, Blocks: c.total / 1024, Bavail: c.free / 1024}
			return nil
		}
		if dir, _, _ := p.scarce(); (dir == "/d") != c.want {
			t.Errorf("%d MiB free of %d: got %q, want scarce: %v", c.free/mib, c.total/mib, dir, c.want)
		}
	}
}
