package sqlstore

import (
	"database/sql/driver"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

const (
	// nextSuffix names the image once the store has taken charge of it. No
	// other file than one on its way in ever has that name, nor its WAL.
	nextSuffix = ".next"
	// asideSuffix is added to the names of the files that SQLite keeps beside
	// the database, while the image takes the database's place.
	asideSuffix = ".aside"
)

// sidecars are the suffixes of the files that SQLite keeps beside a database.
var sidecars = []string{"-wal", "-shm", "-journal"}

// adoption is what happens on disk when the database at path gives way to the
// image. The steps come in the order of the methods, each is synced before the
// next begins, and each may be cut short:
//
//	         path        path-wal     path.next     image
//	         old         old's        –             complete
//	stage    old         old's        the image     –
//	own      old         old's        our own       –
//	clear    old         – (aside)    our own       –
//	moveIn   our own     –            –             –
//	tidy     our own     its own      –             –
//
// Invariant: beside path lies the WAL of the database at path, or none. A WAL
// set aside belongs to the database at path while there is a path.next, and to
// nobody after that (settle).
type adoption struct {
	path, image string
	owner       uint64
}

func (a adoption) next() string { return a.path + nextSuffix }

// waiting reports whether there is an image that has not been taken in, and
// whether there is one that has and has not moved in yet.
func (a adoption) waiting() (fresh, begun bool, err error) {
	if fresh, err = exists(a.image); err != nil {
		return false, false, err
	}
	begun, err = exists(a.next())
	return fresh, begun, err
}

// stage takes charge of the image, by a name of the store's own: from here on a
// WAL beside it is its own and counts, whatever lay beside its old name.
func (a adoption) stage() error {
	for _, suffix := range sidecars {
		if err := removeIfThere(a.next() + suffix); err != nil {
			return err
		}
	}
	// SQLite gives its other files the mode of this one.
	if err := os.Chmod(a.image, 0o600); err != nil {
		return err
	}
	if err := os.Rename(a.image, a.next()); err != nil {
		return err
	}
	return syncFolder(a.path)
}

// own writes whose the database is from now on, all in one file in the end.
func (a adoption) own() error {
	c, err := openConn(a.next(), []string{"synchronous = FULL", "busy_timeout = 1000"})
	if err != nil {
		return err
	}
	if err := errors.Join(a.sign(c), c.close()); err != nil {
		return err
	}
	return syncFile(a.next())
}

func (a adoption) sign(c *conn) error {
	if err := c.exec(sqlPutMeta, metaOwner, int64(a.owner)); err != nil {
		return err
	}
	return c.query("PRAGMA wal_checkpoint(TRUNCATE)", 3, func(row []driver.Value) error {
		if busy := row[0]; busy != int64(0) {
			return fmt.Errorf("%s is in use by another program", a.next())
		}
		return nil
	})
}

// clear sets the files beside the old database aside. Connections to it go on
// with the files that they have open.
func (a adoption) clear() error {
	for _, suffix := range sidecars {
		if err := renameIfThere(a.path+suffix, a.path+suffix+asideSuffix); err != nil {
			return err
		}
	}
	return syncFolder(a.path)
}

// moveIn is the moment: before it the database is the old one, after it the
// new one, even if the error is that the folder could not be synced.
func (a adoption) moveIn() (moved bool, err error) {
	if err := os.Rename(a.next(), a.path); err != nil {
		return false, err
	}
	return true, syncFolder(a.path)
}

// tidy removes what is left of the old database.
func (a adoption) tidy() error { return settle(a.path) }

// settle brings the files beside path in order after an adoption that ended or
// was cut short: what was set aside returns while the image still waits, and
// goes if it has moved in.
func settle(path string) error {
	waits, err := exists(path + nextSuffix)
	if err != nil {
		return err
	}
	for _, suffix := range sidecars {
		aside := path + suffix + asideSuffix
		if waits {
			err = renameIfThere(aside, path+suffix)
		} else {
			err = removeIfThere(aside)
		}
		if err != nil {
			return err
		}
	}
	if waits {
		return syncFolder(path)
	}
	return nil
}

func exists(file string) (bool, error) {
	_, err := os.Lstat(file)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

func renameIfThere(from, to string) error {
	if err := os.Rename(from, to); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func removeIfThere(file string) error {
	if err := os.Remove(file); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func syncFile(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

func syncFolder(file string) error { return syncFile(filepath.Dir(file)) }
