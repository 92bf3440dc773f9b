package ops

import (
	"fmt"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// among shows what is counted of images to and from members.
type among struct {
	*Images
	members []string
}

// Describe implements prometheus.Collector.
func (a *among) Describe(out chan<- *prometheus.Desc) { a.describe(out) }

// Collect implements prometheus.Collector.
func (a *among) Collect(out chan<- prometheus.Metric) { a.collect(out, a.members) }

// series gives each series with its value, histograms with their count.
func series(t *testing.T, c prometheus.Collector) map[string]float64 {
	t.Helper()
	r := prometheus.NewPedanticRegistry()
	r.MustRegister(c)
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]float64{}
	for _, f := range families {
		for _, m := range f.Metric {
			out[fmt.Sprintf("%s{%s=%s}", f.GetName(), m.Label[0].GetName(), m.Label[0].GetValue())] = m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return out
}

// What is counted of a member is there while it is one; also if an image is
// still on its way to it when it is removed.
func TestImages(t *testing.T) {
	i := newImages()
	all := &among{i, []string{"a", "b"}}
	if got := series(t, all); len(got) != 0 {
		t.Errorf("before anything: %v", got)
	}
	i.Send(0xa)(true)
	i.Send(0xa)(false)
	late := i.Send(0xa)
	i.Received(0xb)
	want := fmt.Sprint(map[string]float64{
		`etcd_network_snapshot_send_success{To=a}`:                1,
		`etcd_network_snapshot_send_failures{To=a}`:               1,
		`etcd_network_snapshot_send_inflights_total{To=a}`:        1,
		`etcd_network_snapshot_send_total_duration_seconds{To=a}`: 1,
		`etcd_network_snapshot_receive_success{From=b}`:           1,
	})
	if got := fmt.Sprint(series(t, all)); got != want {
		t.Errorf("got  %v\nwant %v", got, want)
	}
	if got := series(t, &among{i, []string{"b"}}); len(got) != 1 {
		t.Errorf("after the removal of a: %v", got)
	}
	late(false)
	if got := series(t, &among{i, []string{"b"}}); len(got) != 1 {
		t.Errorf("after the end of what was under way to a: %v", got)
	}
	if got := series(t, all); got[`etcd_network_snapshot_send_success{To=a}`] != 0 {
		t.Errorf("a is a member again, with %v", got)
	}
}
