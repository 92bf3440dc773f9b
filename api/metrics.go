package api

import (
	"errors"
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/status"
)

// Metrics are the counters that api itself raises; the names are etcd's.
type Metrics struct {
	ClientRequests *prometheus.CounterVec // by type and client_api_version
	LeaseExpired   prometheus.Counter
	LeaseRenewed   prometheus.Counter
	Ranges         prometheus.Counter
	Failed         prometheus.Counter     // proposals that the cluster did not decide on
	Promoted       prometheus.Counter     // learners, while this member leads
	NotPromoted    *prometheus.CounterVec // by Reason
	Defragmenting  prometheus.Gauge
	RangeTook      prometheus.Observer // seconds
	RequestTook    prometheus.Observer // seconds, of linearizable and local ranges
	ReadTxnTook    prometheus.Observer // seconds, of transactions that only read

	// requests caches ClientRequests' children: looking one up by its labels
	// costs as much as a small request.
	requests sync.Map // [2]string to prometheus.Counter
	versions atomic.Int32
}

// maxVersions bounds how many versions clients can make this member count, and
// maxVersion the bytes of one.
const (
	maxVersions = 100
	maxVersion  = 64
)

func (m *Metrics) countRequest(kind, version string) {
	if len(version) > maxVersion {
		version = "other"
	}
	key := [2]string{kind, version}
	c, ok := m.requests.Load(key)
	if !ok {
		if m.versions.Add(1) > maxVersions {
			version, key = "other", [2]string{kind, "other"}
		}
		c, _ = m.requests.LoadOrStore(key, m.ClientRequests.WithLabelValues(kind, version))
	}
	c.(prometheus.Counter).Inc()
}

// promotionReasons are etcd's words in its metrics, where they differ from those
// that it sends.
var promotionReasons = []struct {
	err    error
	reason string
}{
	{rpctypes.ErrGRPCMemberNotFound, "membership: ID not found"},
	{rpctypes.ErrGRPCMemberNotLearner, "membership: can only promote a learner member"},
}

func (m *Metrics) countPromotion(err error) {
	if err == nil {
		m.Promoted.Inc()
		return
	}
	reason := status.Convert(err).Message()
	for _, r := range promotionReasons {
		if errors.Is(err, r.err) {
			reason = r.reason
		}
	}
	m.NotPromoted.WithLabelValues(reason).Inc()
}

// NewMetrics registers the metrics with reg.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	m := &Metrics{
		ClientRequests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "etcd_server_client_requests_total", Help: "The total number of client requests per client version.",
		}, []string{"type", "client_api_version"}),
		LeaseExpired: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "etcd_debugging_server_lease_expired_total", Help: "The total number of expired leases.",
		}),
		LeaseRenewed: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "etcd_debugging_lease_renewed_total", Help: "The number of renewed leases seen by the leader.",
		}),
	}
	m.Ranges = prometheus.NewCounter(prometheus.CounterOpts{Name: "etcd_mvcc_range_total", Help: "Total number of ranges seen by this member."})
	m.Failed = prometheus.NewCounter(prometheus.CounterOpts{Name: "etcd_server_proposals_failed_total", Help: "The total number of failed proposals seen."})
	m.Defragmenting = prometheus.NewGauge(prometheus.GaugeOpts{Name: "etcd_disk_defrag_inflight", Help: "Whether or not defrag is active on the member. 1 means active, 0 means not."})
	m.Promoted = prometheus.NewCounter(prometheus.CounterOpts{Name: "etcd_server_learner_promote_successes", Help: "The total number of successful learner promotions while this member is leader."})
	m.NotPromoted = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "etcd_server_learner_promote_failures", Help: "The total number of failed learner promotions (likely learner not ready) while this member is leader."}, []string{"Reason"})
	reg.MustRegister(m.Failed, m.Promoted, m.NotPromoted, m.Defragmenting)
	ranges := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "etcd_server_range_duration_seconds", Help: "The latency distributions of successful range in the store.",
		Buckets: prometheus.ExponentialBuckets(0.0001, 2, 20),
	}, []string{"success"})
	requests := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "etcd_server_request_duration_seconds", Help: "Response latency distribution in seconds of successful reads, by type.",
		Buckets: prometheus.ExponentialBuckets(0.001, 2, 14),
	}, []string{"type", "success"})
	reg.MustRegister(ranges, requests)
	m.RangeTook = ranges.WithLabelValues("true")
	m.RequestTook = requests.WithLabelValues("Range", "true")
	m.ReadTxnTook = requests.WithLabelValues("ReadonlyTxn", "true")
	reg.MustRegister(m.ClientRequests, m.LeaseExpired, m.LeaseRenewed, m.Ranges)
	return m
}
