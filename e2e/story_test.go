package e2e

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"

	"limpet/e2e/proc"
	"limpet/e2e/side"
)

// patience is how long a story waits for what must happen by itself.
const patience = 30 * time.Second

// eventually runs a step on one server until its answer is accepted.
func eventually(target *side.Target, step side.Step, accept func(side.Answer) bool) error {
	ctx, cancel := context.WithTimeoutCause(context.Background(), patience, errors.New("deadline"))
	defer cancel()
	err := proc.Eventually(ctx, 50*time.Millisecond, func() error {
		if a := step.Run(ctx, target); !accept(a) {
			return fmt.Errorf("%s answered %s", step, a)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("%s: %w", target.Label, err)
	}
	return nil
}

// onBoth runs wait for both servers at the same time.
func onBoth(t *testing.T, pair *side.Pair, wait func(*side.Target) error) {
	t.Helper()
	var errs [2]error
	var both sync.WaitGroup
	for i, target := range pair.Targets() {
		both.Go(func() { errs[i] = wait(target) })
	}
	both.Wait()
	if err := errors.Join(errs[:]...); err != nil {
		t.Fatal(err)
	}
}

// untilGone waits until a range is empty.
func untilGone(step side.Step) func(*side.Target) error {
	return func(target *side.Target) error { return eventually(target, step, gone) }
}

func gone(a side.Answer) bool {
	return len(a.Messages) == 1 && len(a.Messages[0].(*pb.RangeResponse).Kvs) == 0
}

// TestLeaseExpiry lets leases run out and compares what they leave.
func TestLeaseExpiry(t *testing.T) {
	pair := side.NewPair(t, subject())
	for _, s := range watchAll(1, 2) {
		pair.Do(s)
	}
	t.Run("one lease with several keys", func(t *testing.T) {
		pair := pair.On(t)
		pair.Do(grant(11, 2))
		for _, key := range []string{"one/c", "one/a", "one/b", "one/moved"} {
			pair.Do(putLeased(key, 11))
		}
		pair.Do(grant(12, 5000))
		pair.Do(putLeased("one/moved", 12))
		pair.Do(timeToLive(11))
		onBoth(t, pair, untilGone(get("one/a")))
		pair.Do(all())
		pair.Do(events(1, 8))
		pair.Do(hashKV(0))
		pair.Do(timeToLive(11))
		pair.Do(timeToLive(12))
		pair.Do(leases())
		pair.Do(putLeased("one/late", 11))
		pair.Do(side.KeepAlive{IDs: []int64{11, 12, 11}})
		pair.Do(revoke(11))
		pair.Do(grant(11, 600))
		pair.Do(revoke(11))
		pair.Do(revoke(12))
		pair.Do(events(1, 9))
	})
	t.Run("many at once", func(t *testing.T) {
		pair := pair.On(t)
		const n = 40
		for id := int64(100); id < 100+n; id++ {
			pair.Do(grant(id, 2))
			pair.Do(putLeased(fmt.Sprintf("many/%d", id), id))
		}
		everything := list(&pb.RangeRequest{Key: []byte("many/"), RangeEnd: []byte("many0")})
		onBoth(t, pair, untilGone(everything))
		pair.Do(side.WatchAnyOrder{Handle: 1, Events: 9 + 2*n})
		pair.Do(all())
		pair.Do(leases())
	})
	t.Run("kept alive and across a restart", func(t *testing.T) {
		pair := pair.On(t)
		pair.Do(grant(21, 3))
		pair.Do(putLeased("kept", 21))
		pair.Do(grant(22, 3))
		pair.Do(putLeased("left", 22))
		onBoth(t, pair, func(target *side.Target) error {
			renew := side.KeepAlive{IDs: []int64{21}}
			return eventually(target, renew, func(side.Answer) bool { return gone(get("left").Run(t.Context(), target)) })
		})
		pair.Do(side.KeepAlive{IDs: []int64{21}})
		pair.Do(get("kept"))
		for _, target := range pair.Targets() {
			target.Disconnect()
			target.Server.Kill()
			target.Server.Run()
			target.Connect(t)
		}
		pair.Do(timeToLive(21))
		pair.Do(get("kept"))
		onBoth(t, pair, untilGone(get("kept")))
		pair.Do(all())
		pair.Do(leases())
	})
}

// TestProgressNotify waits for the notifications that one of two watchers asked for.
func TestProgressNotify(t *testing.T) {
	pair := side.NewPair(t, subject(), proc.Flags("--watch-progress-notify-interval=200ms"))
	pair.Do(put("a", "1"))
	pair.Do(side.WatchOpen{Handle: 1})
	pair.Do(side.WatchCreate{Handle: 1, Request: &pb.WatchCreateRequest{Key: []byte("a"), ProgressNotify: true}})
	pair.Do(side.WatchCreate{Handle: 1, Request: &pb.WatchCreateRequest{Key: []byte("b")}})
	quiet := side.Watcher{ID: 1}
	pair.Do(side.WatchNotified{Handle: 1, N: 2, Revision: 2})
	pair.Do(put("other", "1"))
	pair.Do(side.WatchNotified{Handle: 1, N: 2, Revision: 3})
	pair.Do(put("a", "2"))
	pair.Do(events(1, 1))
	pair.Do(side.WatchNotified{Handle: 1, N: 2, Revision: 4})
	pair.Do(side.WatchSilent{Handle: 1, Watcher: quiet})
}

// TestPeriodicCompaction waits until the server has compacted by itself.
func TestPeriodicCompaction(t *testing.T) {
	pair := side.NewPair(t, subject(), proc.Flags("--auto-compaction-mode=periodic", "--auto-compaction-retention=2s"))
	for i := range 10 {
		pair.Do(put("a", fmt.Sprint(i)))
	}
	old := list(&pb.RangeRequest{Key: []byte("a"), Revision: 10}) // one below the newest
	onBoth(t, pair, func(target *side.Target) error {
		return eventually(target, old, func(a side.Answer) bool { return a.Code == codes.OutOfRange })
	})
	pair.Do(old)
	pair.Do(get("a"))
	pair.Do(side.WatchOpen{Handle: 1})
	pair.Do(side.WatchCreate{Handle: 1, Request: &pb.WatchCreateRequest{Key: []byte("a"), StartRevision: 3}, Compacted: true})
}

// TestQuota fills a small database and empties it again. When it is full depends on the engine, so
// that each server tells its own story, to the same end.
func TestQuota(t *testing.T) {
	const quota = 4 << 20
	pair := side.NewPair(t, subject(), proc.Flags(fmt.Sprintf("--quota-backend-bytes=%d", quota)))
	for _, target := range pair.Targets() {
		t.Run(target.Label, func(t *testing.T) { fillAndEmpty(t, target, quota) })
	}
}

func fillAndEmpty(t *testing.T, target *side.Target, quota int64) {
	do := func(s side.Step, want codes.Code) side.Answer {
		t.Helper()
		a := s.Run(t.Context(), target)
		if a.Code != want {
			t.Fatalf("%s: got %s, want code %v", s, a, want)
		}
		return a
	}
	value := strings.Repeat("x", 64<<10)
	n := 0
	for ; put(fmt.Sprintf("fill/%d", n%8), value).Run(t.Context(), target).Code == codes.OK; n++ {
		if int64(n*len(value)) > 4*quota {
			t.Fatalf("no end after %d bytes under a quota of %d", n*len(value), quota)
		}
	}
	t.Logf("%d bytes were accepted under a quota of %d", n*len(value), quota)

	refused := do(put("a", "small"), codes.ResourceExhausted)
	if want := "etcdserver: mvcc: database space exceeded"; refused.Text != want {
		t.Errorf("got %q, want %q", refused.Text, want)
	}
	do(grant(1, 100), codes.ResourceExhausted)
	do(txn(&pb.TxnRequest{Success: []*pb.RequestOp{putOp("a", "b")}}), codes.ResourceExhausted)
	do(get("fill/1"), codes.OK)
	alarms := do(alarm(pb.AlarmRequest_GET, pb.AlarmType_NONE), codes.OK).Messages[0].(*pb.AlarmResponse).Alarms
	if len(alarms) != 1 || alarms[0].Alarm != pb.AlarmType_NOSPACE || alarms[0].MemberID != side.NeutralMember {
		t.Errorf("got alarms %v, want NOSPACE of this member", alarms)
	}
	rev := do(remove("fill/", "fill0"), codes.OK).Messages[0].(*pb.DeleteRangeResponse).Header.Revision
	do(compact(rev), codes.OK)
	do(defragment(), codes.OK)
	// How soon the freed pages count is up to the engine.
	err := eventually(target, status(), func(a side.Answer) bool {
		return len(a.Messages) == 1 && a.Messages[0].(*pb.StatusResponse).DbSize < quota/2
	})
	if err != nil {
		t.Fatal(err)
	}
	do(put("a", "small"), codes.ResourceExhausted)
	do(alarm(pb.AlarmRequest_DEACTIVATE, pb.AlarmType_NOSPACE), codes.OK)
	do(put("a", "small"), codes.OK)
}

// TestOtherLimits runs generated steps under limits much lower than the usual ones.
func TestOtherLimits(t *testing.T) {
	limits := proc.Flags("--max-txn-ops=5", "--max-request-bytes=3000")
	side.NewSession(t, 5, subject(), limits).Run(500)
}
