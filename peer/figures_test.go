package peer

import (
	"context"
	"net"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

func (h *host) probe(t *testing.T, id uint64) error {
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	return h.Probe(ctx, id, memberWho, new(emptypb.Empty), new(wrapperspb.UInt64Value))
}

// Both ends count what went over their connections, and that they have one.
func TestFigures(t *testing.T) {
	w := newTown(t)
	a, b := w.open(0xa), w.open(0xb)
	if f := *a.Figures(0xb); f != (Figures{}) {
		t.Errorf("before anything: %+v", f)
	}
	if _, err := a.Who(t.Context(), b.addr()); err != nil { // anybody may ask
		t.Fatal(err)
	}
	if f := *b.Figures(0xa); f != (Figures{}) {
		t.Errorf("after a question: %+v", f)
	}
	if err := a.probe(t, 0xb); err != nil {
		t.Fatal(err)
	}
	if f := a.Figures(0xb); f.RoundTrips != 0 {
		t.Errorf("a round trip with a dial in it was counted: %+v", f)
	}
	// A call may be answered over a new connection before gRPC calls it ready.
	until(t, "a round trip to be counted", func() bool {
		if err := a.probe(t, 0xb); err != nil {
			t.Fatal(err)
		}
		return a.Figures(0xb).RoundTrips > 0
	})
	f := a.Figures(0xb)
	fits := uint64(0)
	for _, n := range f.RoundTripBuckets {
		fits += n
	}
	if !f.Active || f.Sent == 0 || f.Received == 0 || f.RoundTrips != 1 || f.RoundTripSeconds <= 0 || fits > 1 || f.SendFailures+f.ReceiveFailures+f.Lost != 0 {
		t.Errorf("the caller counts %+v", f)
	}
	if f := b.Figures(0xa); !f.Active || f.Sent == 0 || f.Received == 0 {
		t.Errorf("the one called counts %+v", f)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	until(t, "the connection to be lost", func() bool { f := a.Figures(0xb); return !f.Active && f.Lost == 1 })
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	if err := a.Probe(ctx, 0xb, memberWho, new(emptypb.Empty), new(wrapperspb.UInt64Value)); err == nil {
		t.Error("a member that is gone answers")
	}
	until(t, "the failure to be counted", func() bool { return a.Figures(0xb).SendFailures > 0 })
	a.Forget(0xb)
	if f := a.Figures(0xb); f.Lost != 0 || f.Sent != 0 {
		t.Errorf("it is forgotten, and has %+v", f)
	}
}

// An orderly end is no failure; a broken connection is one.
func TestReceiveFailures(t *testing.T) {
	w := newTown(t)
	a, b := w.open(0xa), w.open(0xb)
	for i, hard := range []bool{false, true} {
		c, err := a.Stream().Dial("b", deadline)
		if err != nil {
			t.Fatal(err)
		}
		there, err := b.Stream().Accept()
		if err != nil {
			t.Fatal(err)
		}
		if hard { // the other side answers data with a reset
			if err := c.(*conn).Conn.(*net.TCPConn).SetLinger(0); err != nil {
				t.Fatal(err)
			}
		}
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := there.Read(make([]byte, 1)); err == nil {
			t.Error("a closed connection can be read")
		}
		_ = there.Close()
		if got := b.Figures(0xa).ReceiveFailures; got != int64(i) {
			t.Errorf("broken %v: %d failures, want %d", hard, got, i)
		}
	}
}

// Where round trips are counted: etcd's buckets.
func TestRoundTripBuckets(t *testing.T) {
	for took, bucket := range map[time.Duration]int{0: 0, 100 * time.Microsecond: 0, 101 * time.Microsecond: 1, 3276800 * time.Microsecond: 15, 4 * time.Second: -1} {
		l := new(link)
		l.trip(took)
		for i := range l.buckets {
			if got, want := l.buckets[i].Load(), i == bucket; (got == 1) != want {
				t.Errorf("%v: bucket %d has %d", took, i, got)
			}
		}
		if l.trips.Load() != 1 {
			t.Errorf("%v: %d round trips", took, l.trips.Load())
		}
	}
}

// A call that is under way when its member is forgotten gets its answer; whoever
// calls later has a connection of its own.
func TestForgetLetsCallsEnd(t *testing.T) {
	w := newTown(t)
	a := w.open(0xa)
	b := w.open(0xb)
	if _, err := a.instance(0xb); err != nil {
		t.Fatal(err)
	}
	k, err := a.hold(0xb) // a call is under way
	if err != nil {
		t.Fatal(err)
	}
	a.Forget(0xb)
	if err := k.conn.Invoke(t.Context(), memberWho, new(emptypb.Empty), new(wrapperspb.UInt64Value)); err != nil {
		t.Errorf("the call under way got %v", err)
	}
	if _, err := a.instance(0xb); err != nil {
		t.Errorf("a later call got %v", err)
	}
	if k == a.callers[0xb] {
		t.Error("it uses the old connection")
	}
	a.release(k)
	if err := k.conn.Invoke(t.Context(), memberWho, new(emptypb.Empty), new(wrapperspb.UInt64Value)); err == nil {
		t.Error("the old connection outlives its calls")
	}
	_ = b.Close()
}
