package main

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

func TestNumber(t *testing.T) {
	for _, c := range []struct {
		value float64
		want  string
	}{
		{0, "0.00"}, {0.0123, "0.012"}, {0.99951, "1.00"}, {1, "1.00"}, {9.994, "9.99"}, {9.996, "10.0"},
		{99.94, "99.9"}, {99.96, "100"}, {999, "999"}, {1000, "1\u202f000"}, {1234567, "1\u202f234\u202f567"},
		{-1234, "-1\u202f234"}, {-0.5, "-0.500"},
	} {
		if got := number(c.value); got != c.want {
			t.Errorf("number(%v) = %q, want %q", c.value, got, c.want)
		}
	}
}

func TestVerdict(t *testing.T) {
	more := metric{floor: 1.3, aim: 2}
	less := metric{floor: 0.7, aim: 0.5, less: true}
	size := metric{floor: 35, aim: 30, less: true, absolute: true}
	for _, c := range []struct {
		name         string
		m            metric
		limpet, etcd []float64
		want         string
	}{
		{"rate past its aim", more, []float64{20}, []float64{10}, "met, aim too"},
		{"rate past its floor", more, []float64{13}, []float64{10}, "met"},
		{"rate below", more, []float64{12}, []float64{10}, "**below**"},
		{"median counts, not the best round", more, []float64{12, 30, 11}, []float64{10, 10, 10}, "**below**"},
		{"cost under its aim", less, []float64{5}, []float64{10}, "met, aim too"},
		{"cost under its floor", less, []float64{7}, []float64{10}, "met"},
		{"cost above", less, []float64{8}, []float64{10}, "**below**"},
		{"no limpet", more, nil, []float64{10}, none},
		{"no etcd", more, []float64{10}, nil, none},
		{"etcd at zero", more, []float64{10}, []float64{0}, none},
		{"absolute needs no etcd", size, []float64{29}, nil, "met, aim too"},
		{"absolute between", size, []float64{33}, []float64{1}, "met"},
		{"absolute above", size, []float64{36}, []float64{99}, "**below**"},
		{"no floor", metric{}, []float64{1}, []float64{1}, none},
	} {
		if got := verdict(c.m, c.limpet, c.etcd); got != c.want {
			t.Errorf("%s: verdict(%v, %v) = %q, want %q", c.name, c.limpet, c.etcd, got, c.want)
		}
	}
}

// tested is a row with a rate, a cost, a figure beside them, and one line without a floor.
var tested = &row{name: "work", metrics: []metric{
	{id: "work.rate", title: "works/s", unit: "/s", floor: 1.3, aim: 2},
	{id: "work.cpu", title: "CPU per work", unit: "µs", less: true, floor: 0.7, aim: 0.5},
	{id: "work.free", title: "free works/s", unit: "/s"},
	{id: "work.p99", title: "p99", unit: "ms", less: true, beside: true},
}}

func TestTables(t *testing.T) {
	limpet, etcd, kine := &side{name: "limpet"}, &side{name: "etcd"}, &side{name: "kine"}
	rec := newRecorder()
	for round := range 3 {
		r := float64(round)
		rec.add(limpet, sample{"work.rate": 2000 + 100*r, "work.cpu": 60 + r, "work.free": 5, "work.p99": 1.5})
		rec.add(etcd, sample{"work.rate": 1000, "work.cpu": 100, "work.free": 4, "work.p99": 3})
	}
	rec.fail(tested, kine, "1/3", fmt.Errorf("%w: too tired\nand a stack", errRefused))

	names := []string{"limpet", "etcd", "kine"}
	want := strings.Join([]string{
		"| row | limpet | etcd | kine | limpet/etcd | floor | aim | verdict |",
		"|---|---:|---:|---:|---:|---:|---:|---:|",
		"| works/s (1/s) | 2 100 (2 000–2 200) | 1 000 | – | 2.10× (2.00–2.20) | ≥ 1.3× | ≥ 2× | met, aim too |",
		"| ↓ CPU per work (µs) | 61.0 (60.0–62.0) | 100 | – | 0.61× (0.60–0.62) | ≤ 0.7× | ≤ 0.5× | met |",
		"| free works/s (1/s) | 5.00 | 4.00 | – | 1.25× (1.25–1.25) | – | – | – |",
		""}, "\n")
	plain := func(s string) string { return strings.ReplaceAll(s, "\u202f", " ") }
	if got := plain(judged([]*row{tested}, names, rec)); got != want {
		t.Errorf("judged:\n%s\nwant:\n%s", got, want)
	}
	want = strings.Join([]string{
		"| beside it | limpet | etcd | kine | limpet/etcd |",
		"|---|---:|---:|---:|---:|",
		"| ↓ p99 (ms) | 1.50 | 3.00 | – | 0.50× (0.50–0.50) |",
		""}, "\n")
	if got := plain(besides([]*row{tested}, names, rec)); got != want {
		t.Errorf("besides:\n%s\nwant:\n%s", got, want)
	}
	if got := rec.missing(); len(got) != 1 || got[0] != "work, kine: not served: too tired" {
		t.Errorf("missing = %q, want the first line of kine's reason", got)
	}
	if rec.failed {
		t.Error("a refused request counts as a failure of the run")
	}
	rec.fail(tested, etcd, "3/3", errors.New("it fell over"))
	if got := rec.missing(); len(got) != 2 || got[0] != "work, etcd: round 3/3: it fell over" {
		t.Errorf("missing = %q, want etcd's reason and round first", got)
	}
	if !rec.failed {
		t.Error("a failed server does not count as a failure of the run")
	}
}

func TestEveryMetricHasItsOwnID(t *testing.T) {
	seen := map[string]string{}
	for _, r := range allRows() {
		for _, m := range r.metrics {
			if other, ok := seen[m.id]; ok {
				t.Errorf("metric %s is in rows %s and %s", m.id, other, r.name)
			}
			seen[m.id] = r.name
			if m.title == "" || m.unit == "" {
				t.Errorf("metric %s has title %q and unit %q", m.id, m.title, m.unit)
			}
		}
	}
}

func TestSelectRows(t *testing.T) {
	got, err := selectRows("size,put1")
	if err != nil || len(got) != 2 || got[0].name != "put1" || got[1].name != "size" {
		t.Errorf("selectRows(size,put1) = %v, %v; want put1 and size in the table's order", got, err)
	}
	if _, err := selectRows("put2"); err == nil || !strings.Contains(err.Error(), "put200") {
		t.Errorf("selectRows(put2): %v, want an error that lists the rows", err)
	}
}

func TestRowGroupsShareOutAllRows(t *testing.T) {
	single, err := selectRows("single")
	if err != nil {
		t.Fatal(err)
	}
	three, err := selectRows("x3")
	if err != nil {
		t.Fatal(err)
	}
	if len(single) == 0 || len(three) == 0 || len(single)+len(three) != len(allRows()) {
		t.Errorf("%d single rows and %d of three members, of %d", len(single), len(three), len(allRows()))
	}
	if got, err := selectRows("x3,put1,kill"); err != nil || len(got) != len(three)+1 {
		t.Errorf("selectRows(x3,put1,kill) = %d rows, %v; want those of x3 and put1", len(got), err)
	}
}

func TestSidesWithoutMembersAreLeftOut(t *testing.T) {
	limpet, kine := &side{name: "limpet"}, &side{name: "kine", kubernetes: true}
	b := &bench{sides: []*side{limpet, kine}, rec: newRecorder()}
	if got := b.sidesOf(&row{}); len(got) != 2 || len(b.rec.remarks) != 0 {
		t.Errorf("one member: %d sides, remarks %q; want both sides and no remark", len(got), b.rec.remarks)
	}
	for range 2 { // rows
		if got := b.sidesOf(&row{members: trio}); len(got) != 1 || got[0] != limpet || len(b.rec.remarks) != 1 {
			t.Errorf("three members: %d sides, remarks %q; want limpet alone and one remark", len(got), b.rec.remarks)
		}
	}
}

func TestTitlesTellMembersAndPlace(t *testing.T) {
	for _, c := range []struct {
		shape putShape
		want  string
	}{
		{putShape{clients: 1, members: 1}, "1 client in sequence"},
		{putShape{clients: 200, members: trio}, "200 clients, 3 members"},
		{putShape{clients: 1, members: trio, leader: true}, "1 client in sequence at the leader, 3 members"},
	} {
		if got := c.shape.who(); got != c.want {
			t.Errorf("who(%+v) = %q, want %q", c.shape, got, c.want)
		}
	}
}
