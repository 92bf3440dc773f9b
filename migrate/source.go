package migrate

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"limpet/auth"
	"limpet/sqlstore"
)

var (
	// ErrInUse: another program has the source open, or had it meanwhile.
	ErrInUse = errors.New("the data is in use")
	// ErrDamaged: the source does not hold what its own rules ask for.
	ErrDamaged = errors.New("the data is damaged")
	// ErrForeign: the source is something else than was said.
	ErrForeign = errors.New("the data is something else")
)

// Source is the history that another store has kept. It belongs to one
// goroutine.
type Source interface {
	// Kind names the store, for people.
	Kind() string
	// Extent is the newest revision, and the one from which on the history is
	// whole, -1 if nothing was ever compacted; after Rows has returned.
	Extent() (rev, floor int64)
	// Rows calls fn for each version of each key, in the order of their IDs.
	// It may be called again, and then tells the same. A row, its value too, is
	// fn's until it returns.
	Rows(ctx context.Context, fn func(*sqlstore.Row) error) error
	// Leases are those that exist, their times to live in seconds by ID, after
	// Rows has returned.
	Leases() (map[int64]int64, error)
	// Rules are the users and roles; nil: the store has none.
	Rules() (*auth.Rules, error)
	// Notes are what people should know of it, sentences, after Rows.
	Notes() []string
	// Still is an error if somebody has touched the source since it was opened.
	Still() error
	// Close lets go of it.
	Close() error
}

// stampOf tells when a file, and those beside it, were written to.
func stampOf(path string, beside ...string) (string, error) {
	var seen strings.Builder
	for _, suffix := range append([]string{""}, beside...) {
		info, err := os.Stat(path + suffix)
		switch {
		case errors.Is(err, os.ErrNotExist):
		case err != nil:
			return "", err
		default:
			fmt.Fprintf(&seen, "%s %d %s;", suffix, info.Size(), info.ModTime().Format(time.RFC3339Nano))
		}
	}
	return seen.String(), nil
}
