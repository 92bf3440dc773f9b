package backup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"limpet/safefile"
)

// Dir is a folder of snapshots.
type Dir struct{ Path string }

// Open makes the folder, if it is not there.
func (d Dir) Open() error {
	if _, err := os.Stat(d.Path); err == nil {
		return nil
	}
	if err := os.MkdirAll(d.Path, 0o700); err != nil {
		return fmt.Errorf("the folder of snapshots %s cannot be made: %w", d.Path, plainError(err))
	}
	return safefile.SyncDir(filepath.Dir(filepath.Clean(d.Path)))
}

// String implements Place.
func (d Dir) String() string { return d.Path }

// File is the path of a snapshot.
func (d Dir) File(name string) string { return filepath.Join(d.Path, name) }

// List implements Place. Files that are not snapshots by their name are not listed.
func (d Dir) List(context.Context) ([]Snapshot, error) {
	entries, err := os.ReadDir(d.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("the folder of snapshots %s cannot be read: %w", d.Path, plainError(err))
	}
	var out []Snapshot
	for _, e := range entries {
		s, ok := parse(e.Name())
		if !ok || !e.Type().IsRegular() {
			continue
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed meanwhile
		}
		if err != nil {
			return nil, err
		}
		s.Bytes, s.Location = info.Size(), d.File(e.Name())
		out = append(out, s)
	}
	return sorted(out), nil
}

// Put implements Place.
func (d Dir) Put(ctx context.Context, file, name string, progress Progress) (s Snapshot, err error) {
	s, ok := parse(name)
	if !ok {
		return s, fmt.Errorf("%q is no name of a snapshot", name)
	}
	in, err := os.Open(file)
	if err != nil {
		return s, err
	}
	defer func() { _ = in.Close() }() // it was only read
	info, err := in.Stat()
	if err != nil {
		return s, err
	}
	if err := checkRoom(d.Path, info.Size()); err != nil {
		return s, err
	}
	out, err := newPart(d.Path)
	if err != nil {
		return s, err
	}
	if err := copyAll(ctx, out, in, info.Size(), progress); err != nil {
		return s, errors.Join(err, out.drop())
	}
	s.Bytes, s.Location = info.Size(), d.File(name)
	return s, out.become(s.Location, false)
}

// Fetch implements Place.
func (d Dir) Fetch(ctx context.Context, name string, size func(bytes int64) error, w io.Writer) error {
	in, err := d.open(name)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }() // it was only read
	info, err := in.Stat()
	if err != nil {
		return err
	}
	if err := size(info.Size()); err != nil {
		return err
	}
	return copyAll(ctx, w, io.LimitReader(in, info.Size()), 0, nil)
}

func (d Dir) open(name string) (*os.File, error) {
	if !isName(name) {
		return nil, noName(name)
	}
	f, err := os.Open(d.File(name))
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%w as %s in %s; see limpet snapshot list", ErrNoSnapshot, name, d.Path)
	}
	return f, err
}

// Delete implements Place.
func (d Dir) Delete(_ context.Context, name string) error {
	if _, ok := parse(name); !ok {
		return noName(name)
	}
	err := os.Remove(d.File(name))
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w as %s in %s; see limpet snapshot list", ErrNoSnapshot, name, d.Path)
	}
	if err != nil {
		return err
	}
	return safefile.SyncDir(d.Path)
}

// Withdraw implements Place. Put never takes a name that is there.
func (d Dir) Withdraw(ctx context.Context, s Snapshot) error { return d.Delete(ctx, s.Name) }

// Tidy implements Place; whose the files were to be does not matter.
func (d Dir) Tidy(context.Context, string) error { return tidyParts(d.Path, ".*"+partSuffix) }

// Whole implements Place: it takes the hash.
func (d Dir) Whole(ctx context.Context, s Snapshot) error {
	in, err := d.open(s.Name)
	if err != nil {
		return err
	}
	_, err = hashInside(ctx, in)
	return errors.Join(inFile(d.File(s.Name), err), in.Close())
}
