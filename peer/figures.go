package peer

import (
	"context"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/connectivity"
	"google.golang.org/protobuf/proto"
)

// RoundTripBounds are the upper bounds, in seconds, of the buckets in which
// round trips are counted: etcd's, 0.1 ms to 3.3 s.
var RoundTripBounds = func() []float64 {
	out := make([]float64, 16)
	for i := range out {
		out[i] = 0.0001 * float64(int(1)<<i)
	}
	return out
}()

// Figures are what this member counts of another one since the start, over
// connections of both directions.
type Figures struct {
	Active           bool  // there is a connection
	Lost             int64 // how often the last connection ended
	Sent, Received   int64 // bytes
	SendFailures     int64 // connections that could not be made, and writes that failed
	ReceiveFailures  int64 // reads that failed; an orderly end is none
	RoundTrips       uint64
	RoundTripSeconds float64    // of all
	RoundTripBuckets [16]uint64 // by RoundTripBounds, not cumulative; what is slower is in RoundTrips only
}

// link is what is counted of a member. Connections count without a lock.
type link struct {
	sent, received, sendFailures, receiveFailures atomic.Int64

	trips, tripNanos atomic.Uint64
	buckets          [16]atomic.Uint64

	conns int   // open; guarded by port.mu
	lost  int64 // guarded by port.mu
}

// linkLocked is the link with a member.
func (p *Port) linkLocked(id uint64) *link {
	l := p.links[id]
	if l == nil {
		l = new(link)
		p.links[id] = l
	}
	return l
}

// join makes c one of the connections with member id.
func (p *Port) join(c *conn, id uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, open := p.open[c]; !open {
		return
	}
	c.link = p.linkLocked(id)
	c.link.conns++
}

// unreached counts a connection to member id that could not be made.
func (p *Port) unreached(id uint64, err error) {
	if id == 0 || errors.Is(err, context.Canceled) || p.ctx.Err() != nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.linkLocked(id).sendFailures.Add(1)
}

func (l *link) wrote(n int, err error) {
	if l == nil {
		return
	}
	l.sent.Add(int64(n))
	if failed(err) {
		l.sendFailures.Add(1)
	}
}

func (l *link) read(n int, err error) {
	if l == nil {
		return
	}
	l.received.Add(int64(n))
	if failed(err) {
		l.receiveFailures.Add(1)
	}
}

// failed reports whether a connection broke, rather than ended: raft also lets
// deadlines pass.
func failed(err error) bool {
	return err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) && !isTimeout(err)
}

// Figures returns what is counted of member id.
func (p *Port) Figures(id uint64) *Figures {
	p.mu.Lock()
	defer p.mu.Unlock()
	l, f := p.links[id], new(Figures)
	if l == nil {
		return f
	}
	f.Active, f.Lost = l.conns > 0, l.lost
	f.Sent, f.Received = l.sent.Load(), l.received.Load()
	f.SendFailures, f.ReceiveFailures = l.sendFailures.Load(), l.receiveFailures.Load()
	f.RoundTrips, f.RoundTripSeconds = l.trips.Load(), float64(l.tripNanos.Load())/1e9
	for i := range l.buckets {
		f.RoundTripBuckets[i] = l.buckets[i].Load()
	}
	return f
}

// Probe calls a method of member id that does nothing, and counts how long the
// answer takes; not if the connection has to be made first.
func (p *Port) Probe(ctx context.Context, id uint64, method string, req, resp proto.Message) error {
	k, err := p.hold(id)
	if err != nil {
		return err
	}
	defer p.release(k)
	ready := k.conn.GetState() == connectivity.Ready
	began := time.Now()
	if err := k.conn.Invoke(ctx, method, req, resp); err != nil || !ready {
		return err
	}
	p.mu.Lock()
	l := p.linkLocked(id)
	p.mu.Unlock()
	l.trip(time.Since(began))
	return nil
}

func (l *link) trip(took time.Duration) {
	l.tripNanos.Add(uint64(took))
	for i, bound := range RoundTripBounds {
		if took.Seconds() <= bound {
			l.buckets[i].Add(1)
			break
		}
	}
	l.trips.Add(1)
}
