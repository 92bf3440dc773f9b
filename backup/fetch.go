package backup

import (
	"context"
	"errors"
)

// Fetched is a copy of a snapshot. Its file has a name that limpet chose: the place
// has no say in it.
type Fetched struct{ file *part }

// Path is that of the file.
func (f *Fetched) Path() string { return f.file.Name() }

// Open is Open of the file. title is what people know the snapshot as.
func (f *Fetched) Open(ctx context.Context, title, spool string, progress Progress) (*Contents, *Database, error) {
	return open(ctx, f.Path(), title, spool, progress)
}

// Drop removes the file.
func (f *Fetched) Drop() error { return f.file.drop() }

// FetchTo copies a snapshot into a file in the folder spool, if there is room. On
// error nothing is left there; ErrNoSnapshot.
func FetchTo(ctx context.Context, p Place, name, spool string, progress Progress) (*Fetched, error) {
	f, err := newPart(spool)
	if err != nil {
		return nil, err
	}
	total := int64(0)
	size := func(n int64) error {
		total = n
		return checkRoom(spool, n)
	}
	w := &progressWriter{w: f, tell: func(done int64) { progress.tell(done, total) }}
	if err := p.Fetch(ctx, name, size, w); err != nil {
		return nil, errors.Join(err, f.drop())
	}
	return &Fetched{f}, nil
}
