package ops

import (
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Snapshots counts the snapshots that this member takes by its schedule.
type Snapshots struct {
	succeeded atomic.Int64 // Unix seconds; 0: never since the start
	bytes     atomic.Int64
	failed    atomic.Int64
}

// Note counts one: how large the newest is, or why there is none.
func (s *Snapshots) Note(bytes int64, err error) {
	if err != nil {
		s.failed.Add(1)
		return
	}
	s.succeeded.Store(time.Now().Unix())
	s.bytes.Store(bytes)
}

func (s *Snapshots) register(r *prometheus.Registry) {
	gauge := func(name, help string, v *atomic.Int64) {
		r.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 { return float64(v.Load()) }))
	}
	gauge("limpet_snapshot_last_success_timestamp_seconds", "When this member last had a scheduled snapshot of all it holds, in its folder and, if it leads, in the bucket; Unix time, 0 if not since the start.", &s.succeeded)
	gauge("limpet_snapshot_size_bytes", "Size of the newest scheduled snapshot.", &s.bytes)
	r.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{
		Name: "limpet_snapshot_failures_total", Help: "Scheduled snapshots that could not be taken, or not be uploaded.",
	}, func() float64 { return float64(s.failed.Load()) }))
}
