package ops

import (
	"context"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/stats"
)

// traffic counts the bytes of gRPC messages, and the reads by kind. It is a
// stats handler, which sees sizes that no interceptor does.
type traffic struct {
	sent, received atomic.Int64
	ranges         atomic.Int64
}

// Traffic returns the handler and registers its counters; call it once.
func (m *Metrics) Traffic() stats.Handler {
	t := &traffic{}
	for _, c := range []struct {
		name, help string
		n          *atomic.Int64
	}{
		{"etcd_network_client_grpc_sent_bytes_total", "The total number of bytes sent to grpc clients.", &t.sent},
		{"etcd_network_client_grpc_received_bytes_total", "The total number of bytes received from grpc clients.", &t.received},
		{"etcd_mvcc_range_total", "Total number of ranges seen by this member.", &t.ranges},
	} {
		m.Registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: c.name, Help: c.help},
			func() float64 { return float64(c.n.Load()) }))
	}
	return t
}

// TagRPC implements stats.Handler.
func (t *traffic) TagRPC(ctx context.Context, info *stats.RPCTagInfo) context.Context {
	switch info.FullMethodName {
	case "/etcdserverpb.KV/Range", "/etcdserverpb.KV/RangeStream":
		t.ranges.Add(1)
	}
	return ctx
}

// HandleRPC implements stats.Handler.
func (t *traffic) HandleRPC(_ context.Context, s stats.RPCStats) {
	switch p := s.(type) {
	case *stats.InPayload:
		t.received.Add(int64(p.Length))
	case *stats.OutPayload:
		t.sent.Add(int64(p.Length))
	}
}

// TagConn implements stats.Handler.
func (t *traffic) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }

// HandleConn implements stats.Handler.
func (t *traffic) HandleConn(context.Context, stats.ConnStats) {}
