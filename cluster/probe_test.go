package cluster

import "testing"

// Members measure each other, whoever leads.
func TestProbe(t *testing.T) {
	t.Parallel()
	bs := founded(t, 2)
	for i, b := range bs {
		done := make(chan struct{})
		// Owner: this test; ends with it.
		go func() { defer close(done); b.local.Probe(t.Context()) }()
		other := bs[1-i].identity().Member
		until(t, b.name+" to measure the other", func() bool { return b.port.Figures(other).RoundTrips > 0 })
		if f := b.port.Figures(b.identity().Member); f.RoundTrips != 0 {
			t.Errorf("%s measures itself: %+v", b.name, f)
		}
		t.Cleanup(func() { <-done })
	}
}
