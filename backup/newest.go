package backup

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
)

// Newest chooses the newest snapshot in a place; ErrNoSnapshot. Within a series the
// names tell, whatever a board takes for the time. Between series they do not, as
// each has its own clock: in a folder the highest revision is taken, for which the
// newest of each is read, and unpacked in the folder spool; in a bucket what the
// store got last. note says what was taken and why, if there was a choice.
func Newest(ctx context.Context, p Place, spool string) (s Snapshot, note string, err error) {
	all, err := p.List(ctx)
	if err != nil {
		return Snapshot{}, "", err
	}
	var last []Snapshot // of each series
	for _, s := range slices.Backward(all) {
		if !slices.ContainsFunc(last, func(l Snapshot) bool { return l.Series == s.Series }) {
			last = append(last, s)
		}
	}
	switch {
	case len(last) == 0:
		return Snapshot{}, "", fmt.Errorf("%w in %s", ErrNoSnapshot, p)
	case len(last) == 1:
		return last[0], "", nil
	}
	if d, ok := p.(Dir); ok {
		return newestByRevision(ctx, d, last, spool)
	}
	s = slices.MaxFunc(last, func(a, b Snapshot) int { return cmp.Or(a.Modified.Compare(b.Modified), a.Created.Compare(b.Created)) })
	return s, fmt.Sprintf("took %s: of the %s, the store got it last", s.Name, choice(last)), nil
}

// choice says among what there was one; last has one snapshot of each series.
func choice(last []Snapshot) string {
	text := fmt.Sprintf("%d members or names there", len(last))
	clusters := map[string]bool{}
	for _, s := range last {
		clusters[s.Cluster] = true
	}
	delete(clusters, "") // the name does not tell
	if len(clusters) > 1 {
		text += fmt.Sprintf(", which are of %d clusters", len(clusters))
	}
	return text
}

// newestByRevision reads the newest of each series, the newest by the clock first.
func newestByRevision(ctx context.Context, d Dir, last []Snapshot, spool string) (best Snapshot, note string, err error) {
	highest := int64(-1)
	damaged := ""
	for _, s := range last {
		c, db, err := Open(ctx, d.File(s.Name), spool, nil)
		if errors.Is(err, ErrDamaged) && ctx.Err() == nil {
			damaged += fmt.Sprintf("; %s is damaged, and was passed over", s.Name)
			continue
		}
		if err != nil {
			return Snapshot{}, "", err
		}
		if err := db.Close(); err != nil {
			return Snapshot{}, "", err
		}
		if c.Revision > highest {
			best, highest = s, c.Revision
		}
	}
	if highest < 0 {
		return last[0], "all that are newest of a member or a name are damaged", nil
	}
	note = fmt.Sprintf("took %s: revision %d is the highest of the %s", best.Name, highest, choice(last))
	if best.Name != last[0].Name && damaged == "" {
		note += fmt.Sprintf(", although %s is newer by its member's clock", last[0].Name)
	}
	return best, note + damaged, nil
}
