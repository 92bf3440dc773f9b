package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// errRefused marks a request that a side does not serve; the cell says why and the run goes on.
var errRefused = errors.New("not served")

// metric is one figure of a row: one line of a table.
type metric struct {
	id    string // unique: "put200.rate"
	title string
	unit  string
	less  bool // ↓: a cost, less is better
	// floor and aim are limpet's share of etcd's figure (DESIGN §11), or amounts in unit when absolute is set.
	// A metric without a floor stands beside the others for the reader and has no verdict.
	floor, aim float64
	absolute   bool
	beside     bool // belongs into the second table
}

// sample is what one round of one row gave on one side: figures by metric id.
type sample map[string]float64

// row is one kind of work.
type row struct {
	name    string
	members int // of the clusters it works on; 0 means 1
	metrics []metric
	run     func(ctx context.Context, b *bench, r *row) error
}

// allRows are the rows in the order of the table.
func allRows() []*row {
	return append([]*row{
		putRow(putShape{name: "put1", clients: 1, members: 1, floor: 1.3, aim: 2}),
		putRow(putShape{name: "put200", clients: 200, members: 1, floor: 1.3, aim: 2}),
		putRow(putShape{name: "put1000", clients: 1000, members: 1, floor: 1.3, aim: 2}),
		getRow("get200", 200, 1, false), getRow("sget200", 200, 1, true),
		listRow(), watchRow(), rssRow(), wearRow("idle", 1), restartRow(), sizeRow(),
	}, trioRows()...)
}

// trioRows are the rows whose clusters have three members.
func trioRows() []*row {
	return []*row{
		putRow(putShape{name: "put1x3", clients: 1, members: trio, floor: 1, aim: 1.3}),
		putRow(putShape{name: "put200x3", clients: 200, members: trio, floor: 1.2, aim: 1.5}),
		putRow(putShape{name: "put1000x3", clients: 1000, members: trio, floor: 1.2, aim: 1.5}),
		putRow(putShape{name: "lead1x3", clients: 1, members: trio, leader: true, floor: 1, aim: 1.3}),
		putRow(putShape{name: "lead200x3", clients: 200, members: trio, leader: true, floor: 1.2, aim: 1.5}),
		getRow("get200x3", 200, trio, false), followRow(),
		outageRow(killed), outageRow(terminated), outageRow(frozen),
		restRow(), wearRow("idlex3", trio), deviceRow("device1x3", 1), deviceRow("device200x3", 200),
	}
}

// rowGroups are names for many rows.
var rowGroups = map[string]func(*row) bool{
	"single": func(r *row) bool { return r.members <= 1 },
	"x3":     func(r *row) bool { return r.members == trio },
}

// selectRows keeps the rows and groups named in a comma-separated list; empty means all.
func selectRows(list string) ([]*row, error) {
	all := allRows()
	if list == "" {
		return all, nil
	}
	wanted := map[string]bool{}
	for _, name := range strings.Split(list, ",") {
		in, ok := rowGroups[name]
		if !ok {
			in = func(r *row) bool { return r.name == name }
		}
		found := false
		for _, r := range all {
			if in(r) {
				wanted[r.name], found = true, true
			}
		}
		if !found {
			return nil, fmt.Errorf("unknown row %q; there are %s", name, rowNames())
		}
	}
	return slices.DeleteFunc(all, func(r *row) bool { return !wanted[r.name] }), nil
}

// rowNames lists what selectRows takes.
func rowNames() string {
	var names []string
	for _, r := range allRows() {
		names = append(names, r.name)
	}
	return strings.Join(append(names, slices.Sorted(maps.Keys(rowGroups))...), ",")
}

// bench is one run of the program.
type bench struct {
	config config
	sides  []*side
	work   string // folder for binaries and data
	rec    *recorder
	served int // servers started, for folder names
}

// sidesOf are the sides that can form the clusters of a row.
func (b *bench) sidesOf(r *row) []*side {
	if r.members <= 1 {
		return b.sides
	}
	var out []*side
	for _, s := range b.sides {
		if s.kubernetes {
			b.rec.remark(fmt.Sprintf("%s has no members of its own, so no figures for several.", s.name))
			continue
		}
		out = append(out, s)
	}
	return out
}

// alternating runs measure on each side in turn, round after round, and records what it gives. A side that fails once
// is left out of the row's further rounds.
func (b *bench) alternating(ctx context.Context, r *row,
	measure func(ctx context.Context, s *side, round int) (sample, error)) error {
	sides := b.sidesOf(r)
	for round := range b.config.rounds {
		for _, s := range sides {
			if b.rec.note(r, s) != "" {
				continue
			}
			got, err := measure(ctx, s, round)
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			b.record(r, s, got, err, fmt.Sprintf("%d/%d", round+1, b.config.rounds))
		}
	}
	return nil
}

// record keeps a sample or the reason why there is none, and shows it as progress.
func (b *bench) record(r *row, s *side, got sample, err error, step string) {
	if err != nil {
		b.rec.fail(r, s, step, err)
		b.say("%s %s %s: %v", r.name, step, s.name, err)
		return
	}
	b.rec.add(s, got)
	var parts []string
	for _, m := range r.metrics {
		if v, ok := got[m.id]; ok && !m.beside {
			parts = append(parts, fmt.Sprintf("%s %s", number(v), m.unit))
		}
	}
	b.say("%s %s %s: %s", r.name, step, s.name, strings.Join(parts, ", "))
}

// warm is the warm-up that belongs to a window.
func warm(window time.Duration) time.Duration { return min(2*time.Second, window/4) }

// meter takes a cluster's cost, and this program's own, between two moments.
type meter struct {
	cluster  *cluster
	from     usage
	fromOwn  time.Duration
	profiled []<-chan error // one for each member, none without profiles
}

// meter starts a meter, and CPU profiles over the window when the run wants them. Of several members the leader's
// profile is the one named 1.
func (b *bench) meter(c *cluster, name string, round int, window time.Duration) (*meter, error) {
	m := &meter{cluster: c}
	if b.config.profile != "" && c.side.pprof != nil && round == 0 {
		for i, v := range c.members {
			file := fmt.Sprintf("%s-%s.pprof", name, c.side.name)
			if len(c.members) > 1 {
				file = fmt.Sprintf("%s-%s-%d.pprof", name, c.side.name, i+1)
			}
			m.profiled = append(m.profiled, fetchProfile(v, filepath.Join(b.config.profile, file), window))
		}
	}
	var err error
	m.from, err = c.cost()
	m.fromOwn = ownCPU()
	return m, err
}

// sinceOpen is what the cluster and this program have used since the meter was opened.
func (m *meter) sinceOpen() (server usage, own time.Duration, err error) {
	own = ownCPU() - m.fromOwn
	now, err := m.cluster.cost()
	if err != nil {
		return usage{}, 0, err
	}
	for _, done := range m.profiled {
		err = errors.Join(err, <-done)
	}
	return now.minus(m.from), own, err
}

// afterStop stops the cluster and is its cost since the meter was opened, work put off until the end included.
func (m *meter) afterStop() (usage, error) {
	if err := m.cluster.stop(); err != nil {
		return usage{}, err
	}
	return m.cluster.final().minus(m.from), nil
}
