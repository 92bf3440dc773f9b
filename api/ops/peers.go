package ops

import (
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"limpet/peer"
)

// peers are the figures of the other members, under etcd's names and labels.
// Series follow the membership: those of a removed member are gone at the next
// scrape, but for etcd_network_known_peers, which goes to 0 as etcd's does.
type peers struct {
	src    *Sources
	images *Images

	known, active, lost, sent, received, sendFailures, receiveFailures, roundTrip, rejected *prometheus.Desc
}

func newPeers(src *Sources, images *Images) *peers {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("etcd_network_"+name, help, labels, nil)
	}
	return &peers{
		src: src, images: images,
		known:           desc("known_peers", "The current number of known peers.", "Local", "Remote"),
		active:          desc("active_peers", "The current number of active peer connections.", "Local", "Remote"),
		lost:            desc("disconnected_peers_total", "The total number of disconnected peers.", "Local", "Remote"),
		sent:            desc("peer_sent_bytes_total", "The total number of bytes sent to peers.", "To"),
		received:        desc("peer_received_bytes_total", "The total number of bytes received from peers.", "From"),
		sendFailures:    desc("peer_sent_failures_total", "The total number of send failures from peers.", "To"),
		receiveFailures: desc("peer_received_failures_total", "The total number of receive failures from peers.", "From"),
		roundTrip:       desc("peer_round_trip_time_seconds", "Round-Trip-Time histogram between peers", "To"),
		rejected: prometheus.NewDesc("limpet_peer_rejected_connections_total",
			"Connections to the peer port that were closed because the caller is no member, or not wanted.", []string{"reason"}, nil),
	}
}

// Describe implements prometheus.Collector.
func (p *peers) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{p.known, p.active, p.lost, p.sent, p.received, p.sendFailures, p.receiveFailures, p.roundTrip, p.rejected} {
		out <- d
	}
	p.images.describe(out)
}

// Collect implements prometheus.Collector.
func (p *peers) Collect(out chan<- prometheus.Metric) {
	ms := p.src.Node.Membership()
	self := name(p.src.MemberID)
	var others []string
	for _, m := range ms.Members {
		out <- prometheus.MustNewConstMetric(p.known, prometheus.GaugeValue, 1, self, name(m.ID))
		if m.ID != p.src.MemberID {
			others = append(others, name(m.ID))
			p.collect(out, self, name(m.ID), p.src.Peer(m.ID))
		}
	}
	for _, id := range ms.Removed {
		out <- prometheus.MustNewConstMetric(p.known, prometheus.GaugeValue, 0, self, name(id))
	}
	p.images.collect(out, others)
	port := p.src.Port()
	for i, reason := range peer.Reasons {
		out <- prometheus.MustNewConstMetric(p.rejected, prometheus.CounterValue, float64(port.Foreign[i]), reason)
	}
	out <- prometheus.MustNewConstMetric(p.rejected, prometheus.CounterValue, float64(port.Refused), "refused")
}

func (p *peers) collect(out chan<- prometheus.Metric, self, other string, f *peer.Figures) {
	count := func(d *prometheus.Desc, n int64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), labels...)
	}
	out <- prometheus.MustNewConstMetric(p.active, prometheus.GaugeValue, bit(f.Active), self, other)
	count(p.lost, f.Lost, self, other)
	count(p.sent, f.Sent, other)
	count(p.received, f.Received, other)
	count(p.sendFailures, f.SendFailures, other)
	count(p.receiveFailures, f.ReceiveFailures, other)
	buckets, sum := make(map[float64]uint64), uint64(0)
	for i, bound := range peer.RoundTripBounds {
		sum += f.RoundTripBuckets[i]
		buckets[bound] = sum
	}
	out <- prometheus.MustNewConstHistogram(p.roundTrip, f.RoundTrips, f.RoundTripSeconds, buckets, other)
}

func name(id uint64) string { return strconv.FormatUint(id, 16) }

// Images counts the databases that are sent to members, and received. Its
// methods may be called concurrently.
type Images struct {
	sent, received, sendFailures *prometheus.CounterVec
	sending                      *prometheus.GaugeVec
	sendTook                     *prometheus.HistogramVec

	mu   sync.Mutex // guards seen
	seen map[string]bool
}

func newImages() *Images {
	counter := func(name, help, label string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "etcd_network_snapshot_" + name, Help: help}, []string{label})
	}
	return &Images{
		seen:         make(map[string]bool),
		sent:         counter("send_success", "Total number of successful snapshot sends", "To"),
		sendFailures: counter("send_failures", "Total number of snapshot send failures", "To"),
		received:     counter("receive_success", "Total number of successful snapshot receives", "From"),
		sending: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "etcd_network_snapshot_send_inflights_total", Help: "Total number of inflight snapshot sends",
		}, []string{"To"}),
		sendTook: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "etcd_network_snapshot_send_total_duration_seconds", Help: "Total latency distributions of v3 snapshot sends",
			Buckets: prometheus.ExponentialBuckets(0.1, 2, 10),
		}, []string{"To"}),
	}
}

// Send notes that an image goes to a member; the function it returns, that this
// has ended.
func (i *Images) Send(to uint64) (ended func(ok bool)) {
	began, label := time.Now(), i.note(to)
	sending := i.sending.WithLabelValues(label)
	sending.Inc()
	return func(ok bool) {
		sending.Dec()
		i.note(to)
		if !ok {
			i.sendFailures.WithLabelValues(label).Inc()
			return
		}
		i.sent.WithLabelValues(label).Inc()
		i.sendTook.WithLabelValues(label).Observe(time.Since(began).Seconds())
	}
}

// Received notes that the image of a member has become the database.
func (i *Images) Received(from uint64) { i.received.WithLabelValues(i.note(from)).Inc() }

// note is the label of a member, which is remembered so that it can be taken
// out.
func (i *Images) note(id uint64) string {
	i.mu.Lock()
	defer i.mu.Unlock()
	label := name(id)
	i.seen[label] = true
	return label
}

// vector is what prometheus's vectors have in common.
type vector interface {
	prometheus.Collector
	DeletePartialMatch(prometheus.Labels) int
}

func (i *Images) vectors() []vector {
	return []vector{i.sent, i.sendFailures, i.sending, i.sendTook, i.received}
}

func (i *Images) describe(out chan<- *prometheus.Desc) {
	for _, v := range i.vectors() {
		v.Describe(out)
	}
}

// collect shows what is counted of the members, and forgets the rest.
func (i *Images) collect(out chan<- prometheus.Metric, members []string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	for _, v := range i.vectors() {
		for id := range i.seen {
			if !slices.Contains(members, id) {
				v.DeletePartialMatch(prometheus.Labels{"To": id})
				v.DeletePartialMatch(prometheus.Labels{"From": id})
			}
		}
		v.Collect(out)
	}
	maps.DeleteFunc(i.seen, func(id string, _ bool) bool { return !slices.Contains(members, id) })
}
