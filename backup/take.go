package backup

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"time"
)

// Source streams a snapshot as a member does: the database, then its hash. size is
// told before the first byte, and may be no more than an estimate, or 0.
type Source func(ctx context.Context, size func(bytes int64) error, w io.Writer) error

// ImageSource makes a Source of what streams the database alone.
func ImageSource(image func(ctx context.Context, size func(bytes int64) error, w io.Writer) error) Source {
	return func(ctx context.Context, size func(int64) error, w io.Writer) error {
		sum := sha256.New()
		err := image(ctx, func(n int64) error { return size(n + hashBytes) }, io.MultiWriter(w, sum))
		if err != nil {
			return err
		}
		_, err = w.Write(sum.Sum(nil))
		return err
	}
}

// Taken is a snapshot that was taken and read whole, and is in no place yet.
type Taken struct {
	Contents *Contents
	file     *part
}

// Path is that of the file.
func (t *Taken) Path() string { return t.file.Name() }

// NameIn is a name for the snapshot beside all others: later than all of its series,
// whatever a board without a clock of its own takes for the time.
func (t *Taken) NameIn(all []Snapshot, series string, now time.Time) string {
	for _, s := range all {
		if s.Series == series && now.Unix() <= s.Created.Unix() {
			now = s.Created.Add(time.Second)
		}
	}
	return nameOf(series, now, t.Contents.Compressed != "")
}

// Drop removes the file.
func (t *Taken) Drop() error { return t.file.drop() }

// Keep gives the file its name, in the same file system; what is there already it
// replaces in one step, or refuses to.
func (t *Taken) Keep(path string, replace bool) error { return t.file.become(path, replace) }

// Taking says how a snapshot is taken.
type Taking struct {
	Source   Source
	Spool    string   // folder for the files on the way
	Compress bool     // if it pays
	Progress Progress // of what comes from the source
	// Wanted, if not nil, is asked when the snapshot has been checked, before it is
	// compressed: false drops it, and Take returns nil.
	Wanted func(*Contents) bool
}

// Take writes a snapshot into a file in the spool, reads it whole, and compresses it.
// On error nothing is left there.
func Take(ctx context.Context, t Taking) (*Taken, error) {
	raw, err := newPart(t.Spool)
	if err != nil {
		return nil, err
	}
	c, err := t.receive(ctx, raw)
	if err != nil {
		return nil, errors.Join(t.explain(err), raw.drop())
	}
	if t.Wanted != nil && !t.Wanted(c) {
		return nil, raw.drop()
	}
	if !t.Compress {
		return &Taken{c, raw}, nil
	}
	small, err := t.squeeze(ctx, raw, c)
	if err != nil {
		return nil, errors.Join(t.explain(err), raw.drop())
	}
	if small == nil {
		return &Taken{c, raw}, nil
	}
	return &Taken{c, small}, raw.drop()
}

// explain says which disk it was.
func (t *Taking) explain(err error) error {
	if isFull(err) {
		return fmt.Errorf("the disk of %s is full: make room, or give another folder (%w)", t.Spool, err)
	}
	return err
}

// receive writes what the source has, and checks it.
func (t *Taking) receive(ctx context.Context, raw *part) (*Contents, error) {
	total := int64(0)
	size := func(n int64) error {
		total = n
		room := n
		if t.Compress {
			room += n / 2 // both are there for a moment
		}
		return checkRoom(t.Spool, room)
	}
	w := &progressWriter{w: raw, tell: func(done int64) { t.Progress.tell(done, total) }}
	if err := t.Source(ctx, size, w); err != nil {
		return nil, err
	}
	c, d, err := open(ctx, raw.Name(), "", t.Spool, nil)
	switch {
	case errors.Is(err, ErrDamaged):
		return nil, fmt.Errorf("what came from the member is not whole: %w", err)
	case err != nil:
		return nil, err
	case !c.Hashed:
		return nil, errors.Join(errors.New("what came from the member has no hash behind it: it was cut short"), d.Close())
	}
	return c, d.Close()
}

// squeeze compresses raw, and makes sure that the same comes out again; nil: it does
// not pay.
func (t *Taking) squeeze(ctx context.Context, raw *part, c *Contents) (_ *part, err error) {
	small, err := newPart(t.Spool)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, small.drop())
		}
	}()
	if _, err := raw.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	if err := compress(ctx, small, raw, nil); err != nil {
		return nil, err
	}
	info, err := small.Stat()
	if err != nil {
		return nil, err
	}
	if info.Size()*100 > (c.Bytes+hashBytes)*(100-atLeast) {
		return nil, small.drop()
	}
	if err := sameInside(ctx, small, c.SHA256); err != nil {
		return nil, err
	}
	c.Compressed, c.Kept = "zstd", info.Size()
	return small, nil
}

// sameInside makes sure that a compressed snapshot has the hash that was found before.
func sameInside(ctx context.Context, f *part, want string) error {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	got, err := hashInside(ctx, f.File)
	if err == nil && got != want {
		err = damaged("compressed, its hash is %s, and was %s before: this machine's memory or disk may be failing", got, want)
	}
	return err
}

// hashInside is the hash of the database of a snapshot, compared with the one that it
// carries. It takes no room.
func hashInside(ctx context.Context, in *os.File) (string, error) {
	info, err := in.Stat()
	if err != nil {
		return "", err
	}
	kind, err := compression(in)
	if err != nil {
		return "", err
	}
	c := &Contents{Compressed: kind}
	if kind == "" {
		err = c.read(ctx, in, info.Size(), io.Discard, nil)
	} else {
		err = c.unpack(ctx, in, info.Size(), io.Discard, nil)
	}
	if err == nil && !c.Hashed {
		err = damaged("there is no hash behind its pages: it was cut short")
	}
	return c.SHA256, err
}

type progressWriter struct {
	w    io.Writer
	done int64
	tell func(done int64)
}

// Write implements io.Writer.
func (p *progressWriter) Write(b []byte) (int, error) {
	n, err := p.w.Write(b)
	p.done += int64(n)
	p.tell(p.done)
	return n, err
}
