package api

import "github.com/prometheus/client_golang/prometheus"

// Metrics are the counters that api itself raises; the names are etcd's.
type Metrics struct {
	ClientRequests *prometheus.CounterVec // by type and client_api_version
	LeaseExpired   prometheus.Counter
	LeaseRenewed   prometheus.Counter
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
	reg.MustRegister(m.ClientRequests, m.LeaseExpired, m.LeaseRenewed)
	return m
}
