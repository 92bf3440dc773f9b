package migrate

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"maps"
	"slices"

	"limpet/auth"
	"limpet/sqlstore"
	"limpet/txn"
)

// Summary tells what a source holds, or what came of it.
type Summary struct {
	Source    string   `json:"source"`
	Keys      int64    `json:"keys"`         // that exist
	Rows      int64    `json:"rows"`         // versions of keys, deletions among them
	Revision  int64    `json:"revision"`     // the newest
	Compacted int64    `json:"compacted_at"` // the oldest that can be read; -1: all can
	Leases    int      `json:"leases"`
	Users     int      `json:"users"`
	Roles     int      `json:"roles"`
	Auth      bool     `json:"auth_enabled"`
	Hash      string   `json:"hash"` // SHA-256 over all rows, read again from what was written
	Notes     []string `json:"notes,omitempty"`
}

// Progress is told how many rows a step is through with; step names it. It may be
// nil.
type Progress func(step string, rows int64)

// every is after how many rows Progress hears of them, and a context is asked.
const every = 1000

// Look reads a source and changes nothing.
func Look(ctx context.Context, src Source, progress Progress) (*Summary, error) {
	t, err := count(ctx, "reading", src.Rows, maphash.MakeSeed(), progress, func(*sqlstore.Row) error { return nil })
	if err != nil {
		return nil, err
	}
	if err := src.Still(); err != nil {
		return nil, err
	}
	return summarize(src, t)
}

// Import makes a database of src that will be at path, where there must be none,
// reads both again, compares them, and only then lets the database have its
// name: half of it is never there. Its memory grows with the number of keys that
// exist, as that of the store does, and not with their history.
func Import(ctx context.Context, src Source, path string, progress Progress) (*Summary, error) {
	b, err := sqlstore.Build(path)
	if err != nil {
		return nil, err
	}
	s, err := build(ctx, src, b, progress)
	if err != nil {
		return nil, errors.Join(err, b.Discard())
	}
	return s, b.Publish()
}

func build(ctx context.Context, src Source, b *sqlstore.Builder, progress Progress) (*Summary, error) {
	seed := maphash.MakeSeed()
	read, err := count(ctx, "copying", src.Rows, seed, progress, func(r *sqlstore.Row) error { return b.Add(r, 0) })
	if err != nil {
		return nil, err
	}
	s, err := summarize(src, read)
	if err != nil {
		return nil, err
	}
	if err := writeRecords(src, b); err != nil {
		return nil, err
	}
	if err := b.Finish(s.Revision, s.Compacted); err != nil {
		return nil, err
	}
	return s, verify(ctx, src, b, read, progress)
}

// verify reads both sides again.
func verify(ctx context.Context, src Source, b *sqlstore.Builder, read *tally, progress Progress) error {
	nothing := func(*sqlstore.Row) error { return nil }
	again, err := count(ctx, "reading the source again", src.Rows, read.seed, progress, nothing)
	if err != nil {
		return err
	}
	if err := src.Still(); err != nil {
		return err
	}
	wrote, err := count(ctx, "reading what was written", func(_ context.Context, fn func(*sqlstore.Row) error) error { return b.Rows(fn) },
		read.seed, progress, nothing)
	if err != nil {
		return err
	}
	for _, other := range []struct {
		what string
		*tally
	}{{"the source, read again,", again}, {"the database that was written", wrote}} {
		if other.rows != read.rows || other.keys() != read.keys() || other.hash() != read.hash() {
			return fmt.Errorf("%s has %d rows of %d keys with hash %s; the source had %d of %d with hash %s: a disk or the memory of this machine is at fault; nothing was imported",
				other.what, other.rows, other.keys(), other.hash(), read.rows, read.keys(), read.hash())
		}
	}
	return nil
}

// count tallies the rows while fn does something with them.
func count(ctx context.Context, step string, rows func(context.Context, func(*sqlstore.Row) error) error, seed maphash.Seed, progress Progress, fn func(*sqlstore.Row) error) (*tally, error) {
	t := newTally(seed)
	last := sqlstore.ID(0)
	err := rows(ctx, func(r *sqlstore.Row) error {
		if err := r.Check(); err != nil {
			short := *r // since the error tells the key
			short.Key = r.Key[:min(len(r.Key), enough)]
			return fmt.Errorf("%w: %w", ErrDamaged, short.Check())
		}
		if r.ID <= last {
			return fmt.Errorf("%w: revision %d.%d comes after %d.%d", ErrDamaged, r.ID.Rev(), r.ID.Sub(), last.Rev(), last.Sub())
		}
		last = r.ID
		t.add(r)
		if t.rows%every == 0 {
			if err := ctx.Err(); err != nil {
				return err
			}
			if progress != nil {
				progress(step, t.rows)
			}
		}
		return fn(r)
	})
	return t, err
}

func summarize(src Source, t *tally) (*Summary, error) {
	s := &Summary{Source: src.Kind(), Keys: t.keys(), Rows: t.rows, Hash: t.hash(), Notes: src.Notes()}
	s.Revision, s.Compacted = src.Extent()
	leases, err := src.Leases()
	if err != nil {
		return nil, err
	}
	s.Leases = len(leases)
	rules, err := src.Rules()
	if err != nil {
		return nil, err
	}
	if rules != nil {
		s.Users, s.Roles, s.Auth = len(rules.Users()), len(rules.Roles()), rules.Enabled()
	}
	if t.huge > 0 {
		s.Notes = append(s.Notes, fmt.Sprintf("%d values are larger than %d bytes: they can be read, but not be written again before limpet server has a higher --max-request-bytes", t.huge, hugeValue))
	}
	return s, nil
}

func writeRecords(src Source, b *sqlstore.Builder) error {
	leases, err := src.Leases()
	if err != nil {
		return err
	}
	for _, id := range slices.Sorted(maps.Keys(leases)) {
		kind, name, data := txn.LeaseRecord(txn.Lease{ID: id, TTL: leases[id]})
		if err := b.SetRecord(kind, name, data); err != nil {
			return err
		}
	}
	rules, err := src.Rules()
	if err != nil || rules == nil {
		return err
	}
	for _, r := range rules.Records(auth.NewRules()) {
		if err := b.SetRecord(r.Kind, r.Name, r.Data); err != nil {
			return err
		}
	}
	return nil
}
