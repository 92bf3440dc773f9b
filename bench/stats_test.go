package main

import (
	"testing"
	"time"
)

func TestSpreadOf(t *testing.T) {
	for _, c := range []struct {
		name   string
		values []float64
		want   spread
	}{
		{"none", nil, spread{}},
		{"one", []float64{7}, spread{7, 7, 7, 1}},
		{"odd, unsorted", []float64{9, 1, 5}, spread{5, 1, 9, 3}},
		{"even: mean of the middle two", []float64{4, 1, 9, 2}, spread{3, 1, 9, 4}},
	} {
		given := append([]float64(nil), c.values...)
		if got := spreadOf(c.values); got != c.want {
			t.Errorf("%s: spreadOf(%v) = %+v, want %+v", c.name, given, got, c.want)
		}
		for i := range given {
			if given[i] != c.values[i] {
				t.Errorf("%s: spreadOf changed its argument to %v", c.name, c.values)
			}
		}
	}
}

func TestPercentileIsNearestRank(t *testing.T) {
	hundred := make([]time.Duration, 100)
	for i := range hundred {
		hundred[i] = time.Duration(100 - i) // 100 … 1
	}
	for _, c := range []struct {
		values []time.Duration
		p      float64
		want   time.Duration
	}{
		{nil, 50, 0},
		{[]time.Duration{5}, 99, 5},
		{hundred, 50, 50},
		{hundred, 99, 99},
		{hundred, 100, 100},
		{hundred, 0.1, 1},
		{[]time.Duration{1, 2, 3, 4}, 50, 2},
		{[]time.Duration{1, 2, 3, 4}, 51, 3},
	} {
		if got := percentile(c.values, c.p); got != c.want {
			t.Errorf("percentile of %d values at %v = %d, want %d", len(c.values), c.p, got, c.want)
		}
	}
}

func TestRatiosPairRounds(t *testing.T) {
	got := ratios([]float64{2, 9, 4, 1}, []float64{1, 3, 0})
	if len(got) != 2 || got[0] != 2 || got[1] != 3 {
		t.Errorf("ratios = %v, want [2 3]: the zero and the round without a partner left out", got)
	}
}
