package ops

import (
	"net/http"
	"os"
	"runtime"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"limpet/api"
	"limpet/peer"
	"limpet/raftfsm"
	"limpet/sqlstore"
	"limpet/txn"
	"limpet/watch"
)

// Sources are what the metrics look at when they are scraped.
type Sources struct {
	Store      *sqlstore.Store
	Node       *raftfsm.Node
	Hub        *watch.Hub
	MemberID   uint64
	QuotaBytes int64
	Version    string // limpet's own
	Peer       func(id uint64) *peer.Figures
	Port       func() peer.Stats
}

// Metrics is the member's registry. It is made before the parts it looks at;
// Watch ties it to them.
type Metrics struct {
	Registry *prometheus.Registry
	API      *api.Metrics
	Traffic  *Traffic
	Images   *Images

	Snapshots *Snapshots

	HealthSuccess, HealthFailures prometheus.Counter
	checks                        *prometheus.GaugeVec
	checkCounts                   *prometheus.CounterVec

	WALSync, WALWrite, Flush, Compaction, Slice, Hash, Image, Defragment, LeaseTTL prometheus.Histogram
	apply                                                                          prometheus.Observer

	src           Sources
	puts, deletes atomic.Int64
	txns          atomic.Int64
	putBytes      atomic.Int64
	walBytes      atomic.Int64
	granted       atomic.Int64
	revoked       atomic.Int64
	leaderChanges atomic.Int64
	readsFailed   atomic.Int64
	compacted     atomic.Int64
	lastCompact   atomic.Int64
}

// NewMetrics returns a registry with Go's and the process's own metrics.
func NewMetrics() *Metrics {
	reg := prometheus.NewRegistry()
	m := &Metrics{Registry: reg, API: api.NewMetrics(reg), Traffic: &Traffic{}, Images: newImages(), Snapshots: new(Snapshots)}
	reg.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	m.histograms()
	m.healthMetrics()
	m.Snapshots.register(reg)
	return m
}

// Handler serves /metrics.
func (m *Metrics) Handler() http.Handler {
	return promhttp.InstrumentMetricHandler(m.Registry, promhttp.HandlerFor(m.Registry, promhttp.HandlerOpts{}))
}

// Applied counts what commands did.
func (m *Metrics) Applied(e txn.Effects) {
	m.puts.Add(e.Ops.Puts)
	m.deletes.Add(e.Ops.Deletes)
	m.putBytes.Add(e.Ops.PutBytes)
	m.txns.Add(e.Ops.Txns)
	m.API.Ranges.Add(float64(e.Ops.Ranges))
	for _, l := range e.Leases {
		if l.Revoked {
			m.revoked.Add(1)
			continue
		}
		m.granted.Add(1)
		m.LeaseTTL.Observe(float64(l.TTL))
	}
}

// LeaderChanged counts a new leader.
func (m *Metrics) LeaderChanged() { m.leaderChanges.Add(1) }

// StoreObserver connects the store's durations.
func (m *Metrics) StoreObserver() sqlstore.Observer {
	seconds := func(h prometheus.Observer) func(time.Duration) {
		return func(d time.Duration) { h.Observe(d.Seconds()) }
	}
	return sqlstore.Observer{
		Flush: func(d time.Duration, _ int) { m.Flush.Observe(d.Seconds()) },
		Compaction: func(d time.Duration, rows int) {
			m.Compaction.Observe(float64(d.Milliseconds()))
			m.compacted.Add(int64(rows))
			m.lastCompact.Store(time.Now().Unix())
		},
		Slice: func(d time.Duration) { m.Slice.Observe(float64(d.Milliseconds())) },
		Hash:  seconds(m.Hash), Image: seconds(m.Image), Defragment: seconds(m.Defragment),
	}
}

// RaftObserver connects the agreement's durations.
func (m *Metrics) RaftObserver() raftfsm.Observer {
	return raftfsm.Observer{
		Sync: func(d time.Duration, bytes int) {
			m.WALSync.Observe(d.Seconds())
			m.WALWrite.Observe(d.Seconds())
			m.walBytes.Add(int64(bytes))
		},
		Apply: func(d time.Duration, _ int) { m.apply.Observe(d.Seconds()) },
		Wait: func(_ time.Duration, failed bool) {
			if failed {
				m.readsFailed.Add(1)
			}
		},
	}
}

func (m *Metrics) histograms() {
	fast := prometheus.ExponentialBuckets(0.001, 2, 14)
	hist := func(name, help string, buckets []float64) prometheus.Histogram {
		h := prometheus.NewHistogram(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets})
		m.Registry.MustRegister(h)
		return h
	}
	m.WALSync = hist("etcd_disk_wal_fsync_duration_seconds", "The latency distributions of writing and syncing the raft log.", fast)
	m.WALWrite = hist("etcd_disk_wal_write_duration_seconds", "The latency distributions of writing the raft log, sync included.", fast)
	m.Flush = hist("etcd_disk_backend_commit_duration_seconds", "The latency distributions of flushes to SQLite.", fast)
	m.Defragment = hist("etcd_disk_backend_defrag_duration_seconds", "The latency distribution of defragmentation.", prometheus.ExponentialBuckets(.1, 2, 13))
	m.Image = hist("etcd_disk_backend_snapshot_duration_seconds", "The latency distribution of streaming the database.", prometheus.ExponentialBuckets(.01, 2, 17))
	m.Hash = hist("etcd_mvcc_hash_rev_duration_seconds", "The latency distribution of hashing the history up to a revision.", prometheus.ExponentialBuckets(.01, 2, 15))
	hist("etcd_mvcc_hash_duration_seconds", "The latency distribution of hashing everything; counted under etcd_mvcc_hash_rev_duration_seconds.", prometheus.ExponentialBuckets(.01, 2, 15))
	m.Compaction = hist("etcd_debugging_mvcc_db_compaction_total_duration_milliseconds", "Bucketed histogram of total duration of compactions.", prometheus.ExponentialBuckets(100, 2, 14))
	m.Slice = hist("etcd_debugging_mvcc_db_compaction_pause_duration_milliseconds", "Bucketed histogram of the slices of compactions.", prometheus.ExponentialBuckets(1, 2, 13))
	hist("etcd_debugging_mvcc_index_compaction_pause_duration_milliseconds", "Pauses for pruning the key index; part of a compaction's slice.", prometheus.ExponentialBuckets(.5, 2, 14))
	m.LeaseTTL = hist("etcd_debugging_lease_ttl_total", "Bucketed histogram of lease TTLs.", prometheus.ExponentialBuckets(1, 2, 24))
	for _, name := range []string{
		"etcd_debugging_disk_backend_commit_rebalance_duration_seconds", "etcd_debugging_disk_backend_commit_spill_duration_seconds",
		"etcd_debugging_disk_backend_commit_write_duration_seconds", "etcd_debugging_snap_save_marshalling_duration_seconds",
		"etcd_debugging_snap_save_total_duration_seconds", "etcd_snap_db_fsync_duration_seconds",
		"etcd_snap_db_save_total_duration_seconds", "etcd_snap_fsync_duration_seconds",
		"etcd_debugging_server_watch_send_loop_control_stream_duration_seconds", "etcd_debugging_server_watch_send_loop_progress_duration_seconds",
		"etcd_debugging_server_watch_send_loop_watch_stream_duration_per_event_seconds", "etcd_debugging_server_watch_send_loop_watch_stream_duration_seconds",
	} {
		hist(name, "A step of etcd that limpet does not have; always empty.", fast)
	}
	apply := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "etcd_server_apply_duration_seconds", Help: "The latency distributions of applying batches of entries.",
		Buckets: prometheus.ExponentialBuckets(0.0001, 2, 20),
	}, []string{"version", "op", "success"})
	m.Registry.MustRegister(apply)
	m.apply = apply.WithLabelValues("v3", "Batch", "true")
}

func (m *Metrics) healthMetrics() {
	m.HealthSuccess = prometheus.NewCounter(prometheus.CounterOpts{Name: "etcd_server_health_success", Help: "The total number of successful health checks"})
	m.HealthFailures = prometheus.NewCounter(prometheus.CounterOpts{Name: "etcd_server_health_failures", Help: "The total number of failed health checks"})
	m.checks = prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "etcd_server_healthcheck", Help: "The result of each kind of healthcheck."}, []string{"type", "name"})
	m.checkCounts = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "etcd_server_healthchecks_total", Help: "The total number of each kind of healthcheck."}, []string{"type", "name", "status"})
	m.Registry.MustRegister(m.HealthSuccess, m.HealthFailures, m.checks, m.checkCounts)
}

func (m *Metrics) check(kind, name string, err error) {
	value, status := 1.0, "success"
	if err != nil {
		value, status = 0, "error"
	}
	m.checks.WithLabelValues(kind, name).Set(value)
	m.checkCounts.WithLabelValues(kind, name, status).Inc()
}

// Watch registers everything that is read off src at each scrape.
func (m *Metrics) Watch(src Sources) {
	m.src = src
	for _, g := range m.gauges() {
		m.Registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: g.name, Help: g.help}, g.value))
	}
	for _, c := range m.counters() {
		m.Registry.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: c.name, Help: c.help}, c.value))
	}
	m.infos()
}

// infos registers the metrics whose label carries the fact.
func (m *Metrics) infos() {
	for _, i := range []struct{ name, help, label, value string }{
		{"etcd_server_version", "Which version is running. 1 for 'server_version' label with current version.", "server_version", api.Version},
		{"etcd_cluster_version", "Which version is running. 1 for 'cluster_version' label with current cluster version", "cluster_version", api.ClusterVersion[:3]},
		{"etcd_server_go_version", "Which Go version server is running with. 1 for 'server_go_version' label with current version.", "server_go_version", runtime.Version()},
		{"etcd_server_id", "Server or member ID in hexadecimal format. 1 for 'server_id' label with current ID.", "server_id", strconv.FormatUint(m.src.MemberID, 16)},
		{"limpet_build_info", "Which limpet this is.", "version", m.src.Version},
	} {
		g := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: i.name, Help: i.help}, []string{i.label})
		g.WithLabelValues(i.value).Set(1)
		m.Registry.MustRegister(g)
	}
	for _, kind := range []pb.AlarmType{pb.AlarmType_NOSPACE, pb.AlarmType_CORRUPT} {
		m.Registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "limpet_alarms", Help: "Members that have raised this alarm.", ConstLabels: prometheus.Labels{"alarm": kind.String()},
		}, func() float64 { return m.raised(kind) }))
	}
	m.Registry.MustRegister(newPeers(&m.src, m.Images))
	features := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "etcd_server_feature_enabled", Help: "Whether or not a feature is enabled. 1 is enabled, 0 is not.",
	}, []string{"name", "stage"})
	for name, stage := range features37 {
		features.WithLabelValues(name, stage).Set(bit(stage == "BETA"))
	}
	m.Registry.MustRegister(features)
}

// features37 are etcd 3.7's feature gates and their stages. Those that are on
// by default there describe what limpet always does.
var features37 = map[string]string{
	"StopGRPCServiceOnDefrag": "ALPHA", "InitialCorruptCheck": "ALPHA", "CompactHashCheck": "ALPHA",
	"TxnModeWriteWithSharedBuffer": "BETA", "LeaseCheckpoint": "ALPHA", "LeaseCheckpointPersist": "ALPHA",
	"SetMemberLocalAddr": "ALPHA", "FastLeaseKeepAlive": "BETA", "PriorityRequest": "ALPHA",
}

type figure struct {
	name, help string
	value      func() float64
}

func fileLimit() uint64 {
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		return 0
	}
	return l.Cur
}

func filesOpen() float64 {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return 0
	}
	return float64(len(entries))
}
