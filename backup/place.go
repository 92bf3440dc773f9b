package backup

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
)

// ErrNoSnapshot: there is none of that name.
var ErrNoSnapshot = errors.New("there is no such snapshot")

// Place is where snapshots are kept. Its methods may be called concurrently, also
// by other processes.
type Place interface {
	// List tells the snapshots that are there, the oldest first.
	List(ctx context.Context) ([]Snapshot, error)
	// Put keeps a whole file under a name, in one step. It takes a name that is
	// there already for an error.
	Put(ctx context.Context, file, name string, progress Progress) (Snapshot, error)
	// Fetch copies a snapshot; ErrNoSnapshot. size is told before the first byte how
	// many will come, and no more do.
	Fetch(ctx context.Context, name string, size func(bytes int64) error, w io.Writer) error
	// Delete removes one for good; ErrNoSnapshot.
	Delete(ctx context.Context, name string) error
	// Withdraw removes what Put has returned, and nothing that somebody else has put
	// in its place.
	Withdraw(ctx context.Context, s Snapshot) error
	// Tidy removes what saves of a series that were cut short have left.
	Tidy(ctx context.Context, series string) error
	// Whole reads a snapshot as far as that is cheap, and says what is wrong with it.
	Whole(ctx context.Context, s Snapshot) error
	fmt.Stringer
}

// Progress hears how many bytes of how many are done; total 0: nobody knows. May
// be nil.
type Progress func(done, total int64)

func (p Progress) tell(done, total int64) {
	if p != nil {
		p(done, total)
	}
}

func sorted(all []Snapshot) []Snapshot {
	slices.SortFunc(all, func(a, b Snapshot) int {
		return cmp.Or(a.Created.Compare(b.Created), strings.Compare(a.Name, b.Name))
	})
	return all
}

// Prune removes of a series all but the newest keep snapshots that are whole, and
// returns what it removed and what it found damaged. Damaged ones do not count: older
// than the last one kept they go, too, else they stay where somebody may look.
func Prune(ctx context.Context, p Place, series string, keep int) (removed, damaged []Snapshot, err error) {
	if keep < 1 {
		return nil, nil, fmt.Errorf("%d snapshots to keep are none; give 1 or more", keep)
	}
	all, err := p.List(ctx)
	if err != nil {
		return nil, nil, err
	}
	for _, s := range slices.Backward(all) {
		switch {
		case s.Series != series:
		case keep == 0:
			if err := p.Delete(ctx, s.Name); err != nil && !errors.Is(err, ErrNoSnapshot) {
				return removed, damaged, err
			}
			removed = append(removed, s)
		default:
			if err := p.Whole(ctx, s); err != nil {
				if ctx.Err() != nil {
					return removed, damaged, err
				}
				damaged = append(damaged, s)
				continue
			}
			keep--
		}
	}
	return removed, damaged, nil
}

// Upload puts a file into a place, and reads back what is there then: what a store
// says that it took need not be what it gives. One that differs, or cannot be read, is
// removed, and is an error: it would be listed and counted as others are.
func Upload(ctx context.Context, p Place, file, name string, progress Progress) (Snapshot, error) {
	s, err := p.Put(ctx, file, name, progress)
	if err != nil {
		return s, err
	}
	if err = compare(ctx, p, file, s); err == nil {
		return s, nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), abortPatience)
	defer cancel()
	if werr := p.Withdraw(ctx, s); werr != nil {
		err = fmt.Errorf("%w; %s stays there, and nobody knows whether it is whole: look at it with limpet snapshot status, or remove it with limpet snapshot delete (%w)", err, s.Location, werr)
	}
	return s, err
}

// compare reads a snapshot, and finds out whether it is what is in the file. It takes
// no room.
func compare(ctx context.Context, p Place, file string, s Snapshot) error {
	in, err := os.Open(file)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }() // it was only read
	info, err := in.Stat()
	if err != nil {
		return err
	}
	want, got := sha256.New(), sha256.New()
	if err := copyAll(ctx, want, in, 0, nil); err != nil {
		return err
	}
	size := func(n int64) error {
		if n != info.Size() {
			return damaged("%s has %d bytes, and %d were put there", s.Location, n, info.Size())
		}
		return nil
	}
	if err := p.Fetch(ctx, s.Name, size, got); err != nil {
		return fmt.Errorf("what was put there could not be read back: %w", err)
	}
	if !bytes.Equal(want.Sum(nil), got.Sum(nil)) {
		return damaged("%s was put there with the hash %x, and comes back with %x: the store, or the way to it, changes data", s.Location, want.Sum(nil), got.Sum(nil))
	}
	return nil
}

// SeriesOf lists the series of a name. Names of before do not tell where the name ends
// and the member's begins, if both may have dashes: unclear are those that may be of
// this name, or of another.
func SeriesOf(all []Snapshot, name string) (mine, unclear []string) {
	for _, s := range all {
		of, _, ok := splitSeries(s.Series)
		switch {
		case ok && of == name:
			mine = append(mine, s.Series)
		case ok || !strings.HasPrefix(s.Series, name+"-"):
		case strings.Count(s.Series, "-") == 1:
			mine = append(mine, s.Series)
		default:
			unclear = append(unclear, s.Series)
		}
	}
	slices.Sort(mine)
	slices.Sort(unclear)
	return slices.Compact(mine), slices.Compact(unclear)
}
