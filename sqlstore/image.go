package sqlstore

import (
	"context"
	"database/sql/driver"
	"errors"
	"io"
	"time"
)

// ErrStalled: whoever reads an image has stopped reading.
var ErrStalled = errors.New("sqlstore: the reader of the image has stalled")

const (
	// imageAhead is how many pages are read ahead of the reader.
	imageAhead = 64
	// imagePatience is how long the reader may take none. While an image is
	// read, SQLite's WAL cannot be reset: it grows with what is written.
	imagePatience = 10 * time.Second
)

// Image streams the database as it is when the call begins, including all that
// is published, as one SQLite file. size is told before the first byte and is
// exact; every image is a whole number of 4096-byte pages. A reader that takes
// nothing for ten seconds gets ErrStalled.
func (s *Store) Image(ctx context.Context, size func(bytes int64) error, w io.Writer) error {
	began := time.Now()
	var (
		c *conn
		n int64
	)
	// The snapshot begins between two steps of the keeper, an adoption among
	// them: a connection must not find one file and the WAL of another.
	err := s.keeper.do(ctx, func() (err error) {
		if err := s.keeper.flush(); err != nil {
			return err
		}
		c, n, err = openSnapshot(s.cfg.Path)
		return err
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	pages := make(chan []byte, imageAhead)
	failed := make(chan error, 1)
	// Owner: this call; ends with the last page, the reader's stall, or cancel.
	// It, and not the goroutine that may hang in w.Write, holds the snapshot.
	go func() {
		failed <- readPages(ctx, c, pages)
		close(pages)
	}()
	if err := size(n); err != nil {
		return err
	}
	err = writePages(ctx, pages, failed, w)
	if err == nil && s.cfg.Observe.Image != nil {
		s.cfg.Observe.Image(time.Since(began))
	}
	return err
}

// openSnapshot begins a read transaction on a connection of its own, since the
// stream may be slow and the readers are few, and tells the bytes it sees.
func openSnapshot(path string) (c *conn, bytes int64, err error) {
	if c, err = openReadOnly(path, readerPragmas); err != nil {
		return nil, 0, err
	}
	if err = c.exec("BEGIN"); err == nil {
		bytes, err = c.int64("PRAGMA page_count")
	}
	if err != nil {
		return nil, 0, errors.Join(err, c.close())
	}
	return c, bytes * pageSize, nil
}

func writePages(ctx context.Context, pages <-chan []byte, failed <-chan error, w io.Writer) error {
	for p := range pages {
		// A small database has been read ahead whole: the reader does not notice.
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if _, err := w.Write(p); err != nil {
			return err
		}
	}
	return <-failed
}

// readPages reads all pages of c's snapshot and closes c.
func readPages(ctx context.Context, c *conn, pages chan<- []byte) (err error) {
	defer func() { err = errors.Join(err, c.close()) }()
	patience := time.NewTimer(imagePatience)
	defer patience.Stop()
	return c.query("SELECT data FROM sqlite_dbpage ORDER BY pgno", 1, func(row []driver.Value) error {
		patience.Reset(imagePatience)
		select {
		case pages <- row[0].([]byte):
			return nil
		case <-patience.C:
			return ErrStalled
		case <-ctx.Done():
			return ctx.Err()
		}
	})
}
