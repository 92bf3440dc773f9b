package main

import (
	"context"
	"errors"
	"fmt"
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
	metrics []metric
	run     func(ctx context.Context, b *bench, r *row) error
}

// allRows are the rows in the order of the table.
func allRows() []*row {
	return []*row{
		putRow("put1", 1), putRow("put200", 200), putRow("put1000", 1000),
		getRow("get200", 200, false), getRow("sget200", 200, true),
		listRow(), watchRow(), rssRow(), wearRow(), restartRow(), sizeRow(),
	}
}

// selectRows keeps the rows named in a comma-separated list; empty means all.
func selectRows(list string) ([]*row, error) {
	all := allRows()
	if list == "" {
		return all, nil
	}
	var names []string
	for _, r := range all {
		names = append(names, r.name)
	}
	wanted := strings.Split(list, ",")
	for _, w := range wanted {
		if !slices.Contains(names, w) {
			return nil, fmt.Errorf("unknown row %q; there are %s", w, strings.Join(names, ","))
		}
	}
	return slices.DeleteFunc(all, func(r *row) bool { return !slices.Contains(wanted, r.name) }), nil
}

// bench is one run of the program.
type bench struct {
	config config
	sides  []*side
	work   string // folder for binaries and data
	rec    *recorder
	served int // servers started, for folder names
}

// alternating runs measure on each side in turn, round after round, and records what it gives. A side that fails once
// is left out of the row's further rounds.
func (b *bench) alternating(ctx context.Context, r *row,
	measure func(ctx context.Context, s *side, round int) (sample, error)) error {
	for round := range b.config.rounds {
		for _, s := range b.sides {
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

// fresh starts a side on an empty data folder of its own.
func (b *bench) fresh(ctx context.Context, s *side) (*server, error) {
	b.served++
	dir := filepath.Join(b.work, fmt.Sprintf("%s-%03d", s.name, b.served))
	at, err := newPlace(dir, dir+".log")
	if err != nil {
		return nil, err
	}
	return s.start(ctx, at, b.config.profile != "" && s.pprof != nil)
}

// discard ends a server and deletes its data; err is the failure so far, see server.end.
func (b *bench) discard(v *server, err error) error {
	err = v.end(err)
	v.place.remove()
	return err
}

// warm is the warm-up that belongs to a window.
func warm(window time.Duration) time.Duration { return min(2*time.Second, window/4) }

// meter takes a server's cost, and this program's own, between two moments.
type meter struct {
	server   *server
	from     usage
	fromOwn  time.Duration
	profiled <-chan error // nil without a profile
}

// meter starts a meter, and a CPU profile over the window when the run wants profiles.
func (b *bench) meter(v *server, name string, round int, window time.Duration) (*meter, error) {
	m := &meter{server: v}
	if b.config.profile != "" && v.side.pprof != nil && round == 0 {
		m.profiled = fetchProfile(v, filepath.Join(b.config.profile, fmt.Sprintf("%s-%s.pprof", name, v.side.name)), window)
	}
	var err error
	m.from, err = v.cost()
	m.fromOwn = ownCPU()
	return m, err
}

// sinceOpen is what the server and this program have used since the meter was opened.
func (m *meter) sinceOpen() (server usage, own time.Duration, err error) {
	own = ownCPU() - m.fromOwn
	now, err := m.server.cost()
	if err != nil {
		return usage{}, 0, err
	}
	if m.profiled != nil {
		err = <-m.profiled
	}
	return now.minus(m.from), own, err
}

// afterStop stops the server and is its cost since the meter was opened, work put off until the end included.
func (m *meter) afterStop() (usage, error) {
	if err := m.server.stop(); err != nil {
		return usage{}, err
	}
	return m.server.final.minus(m.from), nil
}

func (u usage) minus(v usage) usage {
	u.cpu -= v.cpu
	u.written -= v.written
	return u
}
