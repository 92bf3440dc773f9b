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
	if err := s.keeper.do(ctx, s.keeper.flush); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	announced := make(chan int64, 1)
	pages := make(chan []byte, imageAhead)
	failed := make(chan error, 1)
	// Owner: this call; ends with the last page, the reader's stall, or cancel.
	// It, and not the goroutine that may hang in w.Write, holds the snapshot.
	go func() {
		failed <- s.readPages(ctx, announced, pages)
		close(announced)
		close(pages)
	}()
	err := writePages(ctx, size, announced, pages, failed, w)
	if err == nil && s.cfg.Observe.Image != nil {
		s.cfg.Observe.Image(time.Since(began))
	}
	return err
}

func writePages(ctx context.Context, size func(int64) error, announced <-chan int64, pages <-chan []byte, failed <-chan error, w io.Writer) error {
	// What was announced comes first, even when the reader has already ended.
	n, ok := <-announced
	if !ok {
		return <-failed
	}
	if err := size(n); err != nil {
		return err
	}
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

// readPages reads all pages in one read transaction, on a connection of its
// own: the stream may be slow, and the readers are few.
func (s *Store) readPages(ctx context.Context, announced chan<- int64, pages chan<- []byte) (err error) {
	c, err := openConn(s.cfg.Path, readerPragmas)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.close()) }()
	if err := c.exec("BEGIN"); err != nil {
		return err
	}
	n, err := c.int64("PRAGMA page_count")
	if err != nil {
		return err
	}
	announced <- n * pageSize
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
