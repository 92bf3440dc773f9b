package sqlstore

import (
	"cmp"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
)

// model is the store in its dumbest form: a plain list of every version that
// ever was. Nothing in it is indexed, dropped or kept in two places.
type model struct {
	versions []Row
	rev      int64
	floor    int64
	records  map[recordKey]string
}

func newModel() *model {
	return &model{rev: Initial, floor: -1, records: make(map[recordKey]string)}
}

// at lists the keys visible at rev, in order.
func (m *model) at(rev int64) []Row {
	newest := make(map[string]Row)
	for _, v := range m.versions {
		if v.ID.Rev() <= rev {
			newest[v.Key] = v
		}
	}
	var out []Row
	for _, key := range slices.Sorted(maps.Keys(newest)) {
		if v := newest[key]; !v.Tombstone() {
			out = append(out, v)
		}
	}
	return out
}

func (m *model) get(key string, rev int64) *Row {
	for _, v := range m.at(rev) {
		if v.Key == key {
			return &v
		}
	}
	return nil
}

// op is one change of a command.
type op struct {
	verb  string // put, del, compact, record, unrecord
	key   string
	value []byte
	lease int64
	rev   int64
}

// String implements fmt.Stringer.
func (o op) String() string {
	return fmt.Sprintf("%s %s (%d bytes, lease %d, rev %d)", o.verb, o.key, len(o.value), o.lease, o.rev)
}

// command is what one Begin and End embrace; batch is published at one index.
type (
	command []op
	batch   struct {
		index    uint64
		commands []command
	}
)

func (m *model) apply(b batch) {
	for _, c := range b.commands {
		rev, sub := m.rev+1, 0
		for _, o := range c {
			switch prev := m.get(o.key, rev); o.verb {
			case "put":
				v := Row{ID: MakeID(rev, sub), Create: rev, Version: 1, Lease: o.lease, Key: o.key, Value: o.value}
				if prev != nil {
					v.Create, v.Version = prev.Create, prev.Version+1
				}
				m.versions = append(m.versions, v)
				sub++
			case "del":
				if prev != nil {
					m.versions = append(m.versions, Row{ID: MakeID(rev, sub), Key: o.key})
					sub++
				}
			case "compact":
				if o.rev > m.floor && o.rev <= m.rev {
					m.floor = o.rev
				}
			case "record":
				m.records[recordKey{"kind", o.key}] = string(o.value)
			case "unrecord":
				delete(m.records, recordKey{"kind", o.key})
			}
		}
		if sub > 0 {
			m.rev = rev
		}
	}
}

// replay applies a batch to a store, as the raft FSM does: not twice.
func replay(s *Store, b batch) {
	if b.index <= s.Applied() {
		return
	}
	w := s.Writer()
	for _, c := range b.commands {
		w.Begin(int64(b.index))
		for _, o := range c {
			switch o.verb {
			case "put":
				w.Put(o.key, o.value, o.lease)
			case "del":
				w.Delete(o.key)
			case "compact":
				_ = w.Compact(o.rev) // the model decides for itself
			case "record":
				w.SetRecord("kind", o.key, o.value)
			case "unrecord":
				w.DeleteRecord("kind", o.key)
			}
		}
		w.End()
	}
	w.Publish(b.index)
}

// randomBatch makes a batch of a few commands over few keys. A command changes
// no key twice: neither does any of etcd's requests.
func randomBatch(r *rand.Rand, index uint64, rev int64) batch {
	b := batch{index: index}
	for range 1 + r.IntN(4) {
		var c command
		keys := r.Perm(12)
		switch n := r.IntN(100); {
		case n < 4:
			c = command{{verb: "compact", rev: rev - int64(r.IntN(30)) + 2}}
		case n < 12:
			c = command{{verb: []string{"record", "unrecord"}[r.IntN(2)], key: fmt.Sprint(r.IntN(4)), value: fmt.Append(nil, rev)}}
		default:
			for i := range 1 + r.IntN(3) {
				c = append(c, randomChange(r, fmt.Sprintf("k%02d", keys[i])))
			}
		}
		b.commands = append(b.commands, c)
	}
	return b
}

func randomChange(r *rand.Rand, key string) op {
	if r.IntN(3) == 0 {
		return op{verb: "del", key: key}
	}
	return op{verb: "put", key: key, value: fmt.Appendf(nil, "%*d", r.IntN(200), r.Int()), lease: int64(r.IntN(3))}
}

// checkAll compares everything the store can tell with the model.
func checkAll(t *testing.T, r *rand.Rand, s *Store, m *model) {
	t.Helper()
	if s.Rev() != m.rev || s.Floor() != m.floor {
		t.Fatalf("store at revision %d, floor %d; want %d, %d", s.Rev(), s.Floor(), m.rev, m.floor)
	}
	if _, err := s.At(m.rev + 1); err != ErrFuture {
		t.Errorf("At(%d): %v, want ErrFuture", m.rev+1, err)
	}
	if _, err := s.At(m.floor - 1); err != ErrCompacted {
		t.Errorf("At(%d) below floor %d: %v, want ErrCompacted", m.floor-1, m.floor, err)
	}
	for rev := m.rev; rev >= max(m.floor, 0); rev -= 1 + r.Int64N(1+(m.rev-max(m.floor, 0))/15) {
		checkView(t, r, s, m, rev)
	}
	if m.floor >= 0 {
		checkView(t, r, s, m, m.floor)
	}
	checkHistory(t, r, s, m)
	now := m.at(m.rev)
	if got := s.Stats().Keys; got != len(now) {
		t.Errorf("Stats: %d keys, want %d", got, len(now))
	}
	for lease := range int64(3) {
		var want []string
		for _, row := range now {
			if lease != 0 && row.Lease == lease {
				want = append(want, row.Key)
			}
		}
		got := s.LeaseKeys(lease)
		if slices.Sort(got); !slices.Equal(got, want) {
			t.Errorf("LeaseKeys(%d) = %q, want %q", lease, got, want)
		}
	}
}

func checkView(t *testing.T, r *rand.Rand, s *Store, m *model, rev int64) {
	t.Helper()
	v, err := s.At(rev)
	if err != nil {
		t.Fatalf("At(%d) with floor %d, revision %d: %v", rev, m.floor, m.rev, err)
	}
	all := m.at(rev)
	from, end := fmt.Sprintf("k%02d", r.IntN(13)), fmt.Sprintf("k%02d", r.IntN(13))
	for _, span := range []Span{{}, {Key: from}, {Key: from, End: end}, {Key: from, Single: true}} {
		var want []Row
		for _, row := range all {
			if span.Contains(row.Key) {
				want = append(want, row)
			}
		}
		if span.Single {
			checkOne(t, v, span.Key, want)
			continue
		}
		o := RangeOptions{Limit: r.IntN(6), KeysOnly: r.IntN(3) == 0, CountOnly: r.IntN(5) == 0, NoCount: r.IntN(3) == 0}
		checkRange(t, v, span, o, want)
	}
}

func checkOne(t *testing.T, v View, key string, want []Row) {
	t.Helper()
	row, err := v.Get(key)
	if err != nil || (row == nil) != (len(want) == 0) || row != nil && !same(*row, want[0], false) {
		t.Errorf("Get(%q) at %d = %s, %v; want %s", key, v.Rev(), rowText(row), err, texts(want))
	}
	meta, err := v.Meta(key)
	if err != nil || (meta == nil) != (len(want) == 0) || meta != nil && !same(*meta, want[0], true) {
		t.Errorf("Meta(%q) at %d = %s, %v; want %s", key, v.Rev(), rowText(meta), err, texts(want))
	}
}

func checkRange(t *testing.T, v View, span Span, o RangeOptions, want []Row) {
	t.Helper()
	got, err := v.Range(span.Key, span.End, o)
	if err != nil {
		t.Fatalf("Range(%+v, %+v) at %d: %v", span, o, v.Rev(), err)
	}
	count := len(want)
	if o.Limit > 0 && len(want) > o.Limit {
		want = want[:o.Limit]
		if o.NoCount {
			count = o.Limit
		}
	}
	if o.CountOnly {
		if !(o.NoCount && o.Limit > 0) && got.Count != count || len(got.Rows) != 0 {
			t.Errorf("Range(%+v, %+v) at %d: %d rows, count %d; want 0, %d", span, o, v.Rev(), len(got.Rows), got.Count, count)
		}
		return
	}
	equal := slices.EqualFunc(got.Rows, want, func(g *Row, w Row) bool { return same(*g, w, o.KeysOnly) })
	if !equal || got.Count != count {
		t.Errorf("Range(%+v, %+v) at %d: %d rows, count %d; want %d, %d", span, o, v.Rev(), len(got.Rows), got.Count, len(want), count)
	}
}

// same compares two rows, with or without values.
func same(a, b Row, metaOnly bool) bool {
	return a.ID == b.ID && a.Create == b.Create && a.Version == b.Version && a.Lease == b.Lease && a.Key == b.Key &&
		(metaOnly || string(a.Value) == string(b.Value))
}

// checkHistory walks the history of a random span from a random revision, in
// the stretches that the store chooses, and looks behind each change.
func checkHistory(t *testing.T, r *rand.Rand, s *Store, m *model) {
	t.Helper()
	low := max(m.floor, 1)
	key := fmt.Sprintf("k%02d", r.IntN(12))
	for _, span := range []Span{{}, {Key: key}, {Key: key, End: fmt.Sprintf("k%02d", r.IntN(13))}, {Key: key, Single: true}} {
		from := low + r.Int64N(m.rev-low+1)
		var want, got []Row
		for _, v := range m.versions {
			if v.ID.Rev() >= from && span.Contains(v.Key) {
				want = append(want, v)
			}
		}
		for at := from; at <= m.rev; {
			commits, through, err := s.History(span, at, m.rev)
			if err != nil || through < at {
				t.Fatalf("History(%+v, %d, %d) through %d: %v", span, at, m.rev, through, err)
			}
			for _, c := range commits {
				for _, row := range c.Rows {
					if span.Contains(row.Key) {
						got = append(got, row)
					}
				}
			}
			at = through + 1
		}
		if !slices.EqualFunc(got, want, func(a, b Row) bool { return same(a, b, false) }) {
			t.Errorf("History(%+v) from %d with floor %d: %v, want %v", span, from, m.floor, ids(got), ids(want))
		}
		for _, row := range want[:min(3, len(want))] {
			prev, err := s.Previous(row.Key, row.ID.Rev())
			wantPrev := m.get(row.Key, row.ID.Rev()-1)
			if row.ID.Rev()-1 < m.floor {
				wantPrev = nil
			}
			if err != nil || (prev == nil) != (wantPrev == nil) || prev != nil && !same(*prev, *wantPrev, false) {
				t.Errorf("Previous(%q, %d) with floor %d = %s, %v; want %s", row.Key, row.ID.Rev(), m.floor, rowText(prev), err, rowText(wantPrev))
			}
		}
	}
	if m.floor > 0 {
		if _, _, err := s.History(Span{}, m.floor-1, m.rev); err != ErrCompacted {
			t.Errorf("History from %d below floor %d: %v, want ErrCompacted", m.floor-1, m.floor, err)
		}
	}
}

func texts(rows []Row) []string {
	out := make([]string, len(rows))
	for i := range rows {
		out[i] = rowText(&rows[i])
	}
	return out
}

func ids(rows []Row) []string {
	out := make([]string, len(rows))
	for i, r := range rows {
		out[i] = fmt.Sprintf("%d.%d", r.ID.Rev(), r.ID.Sub())
	}
	return out
}

// checkRecords compares the records in the file; the store must be flushed.
func checkRecords(t *testing.T, s *Store, m *model) {
	t.Helper()
	got := make(map[recordKey]string)
	if err := s.Records("kind", func(name string, data []byte) error {
		got[recordKey{"kind", name}] = string(data)
		return nil
	}); err != nil {
		t.Fatalf("Records: %v", err)
	}
	if !maps.Equal(got, m.records) {
		t.Errorf("records %v, want %v", got, m.records)
	}
}

// TestAgainstModel does thousands of random commands, flushes, compactions,
// restarts and power cuts, and compares everything with the model. A second
// store gets the same log and flushes at other moments.
func TestAgainstModel(t *testing.T) {
	for seed := range uint64(4) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			modelRun(t, rand.New(rand.NewPCG(seed, 1)), 250)
		})
	}
}

func modelRun(t *testing.T, r *rand.Rand, steps int) {
	// A tail of a few commits and a cache of a few rows, so that all ways to a
	// row are taken.
	s := newStore(t, Config{TailBytes: 4000, CacheBytes: 20_000, FlushBytes: cmp.Or(int64(r.IntN(3))*3000, 1<<20)})
	other := newStore(t, Config{FlushBytes: 1, CacheBytes: -1, TailBytes: -1})
	m := newModel()
	var log []batch
	for step := range steps {
		b := randomBatch(r, uint64(len(log)+1), m.rev)
		log = append(log, b)
		m.apply(b)
		replay(s, b)
		replay(other, b)
		switch n := r.IntN(100); {
		case n < 10:
			flush(t, s)
		case n < 20:
			checkAll(t, r, s, m)
		case n < 23:
			s = restart(t, s, r.IntN(2) == 0)
			for _, b := range log {
				replay(s, b) // skips what the file holds
			}
			checkAll(t, r, s, m)
			compareHashes(t, s, other)
		}
		if t.Failed() {
			t.Fatalf("step %d, last batch %v", step, b.commands)
		}
	}
	flush(t, s)
	flush(t, other)
	for _, s := range []*Store{s, other} {
		checkAll(t, r, s, m)
		checkRecords(t, s, m)
	}
	compareHashes(t, s, other)
	before := hashOf(t, s)
	s = restart(t, s, true)
	if after := hashOf(t, s); after != before {
		t.Errorf("hash %+v after a restart, want %+v", after, before)
	}
	checkAll(t, r, s, m)
	checkRecords(t, s, m)
}

// restart closes the store, or leaves it to a power cut between two steps of
// the keeper, and opens what lies on disk.
func restart(t *testing.T, s *Store, graceful bool) *Store {
	t.Helper()
	cfg := s.cfg
	if !graceful {
		dir := t.TempDir()
		onKeeper(t, s, func() { cfg.Path = copyDatabase(t, s.cfg.Path, dir) })
	}
	if err := s.Close(); err != nil {
		t.Fatalf("Close: %v", err)
	}
	return newStore(t, cfg)
}

func compareHashes(t *testing.T, a, b *Store) {
	t.Helper()
	if ha, hb := hashOf(t, a), hashOf(t, b); ha != hb {
		t.Errorf("the same log gives hash %+v and %+v", ha, hb)
	}
}
