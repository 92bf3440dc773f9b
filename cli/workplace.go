package cli

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"

	"limpet/safefile"
)

// workplace is a folder, beside the data directory unless another place is given,
// in which an import does what may be cut short. It is held while it is used. A file
// of its own, written first of all, tells it from a folder that somebody else has made.
type workplace struct {
	path string
	lock *os.File
}

// workMark is the name of that file, which is empty.
const workMark = "made-by-limpet-import"

// openWorkplace makes the folder, or takes over that of an import that was cut
// short, whose files go. Nothing else is ever removed, and source, if there is one,
// must not be there. In temp, unless that is empty, the folder is always a new one.
func openWorkplace(dataDir, temp, source string) (*workplace, error) {
	dir, err := filepath.Abs(dataDir)
	if err != nil {
		return nil, err
	}
	w := &workplace{path: dir + ".import"}
	if temp != "" {
		w.path, err = os.MkdirTemp(temp, "limpet-import-")
	} else {
		err = w.makeBeside(source)
	}
	if err != nil {
		return nil, err
	}
	if w.lock, err = os.OpenFile(w.path, os.O_RDONLY|syscall.O_DIRECTORY|syscall.O_NOFOLLOW, 0); err != nil {
		return nil, w.unmade(err)
	}
	if err := w.take(); err != nil {
		return nil, errors.Join(err, w.lock.Close())
	}
	return w, nil
}

func (w *workplace) makeBeside(source string) error {
	if source != "" && w.holds(source) {
		return fmt.Errorf("%s lies in %s, where limpet import works, and removes what it finds: move it elsewhere first", source, w.path)
	}
	if err := os.MkdirAll(filepath.Dir(w.path), 0o700); err != nil {
		return w.unmade(err)
	}
	if err := os.Mkdir(w.path, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return w.unmade(err)
	}
	return nil
}

// unmade says what to do where the folder cannot be made.
func (w *workplace) unmade(err error) error {
	if errors.Is(err, os.ErrPermission) || errors.Is(err, syscall.EROFS) {
		return fmt.Errorf("limpet import works in a folder of its own beside the data directory, and cannot make it: %w; give another place with --temp-dir, or run it as root: the files become those of the data directory's owner", err)
	}
	return fmt.Errorf("the folder for the work cannot be created: %w", err)
}

func (w *workplace) take() error {
	if err := syscall.Flock(int(w.lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return fmt.Errorf("another limpet import works in %s: wait for its end", w.path)
	}
	there, err := os.ReadDir(w.path)
	if err != nil {
		return err // also if another import has just ended, and removed it
	}
	if len(there) == 0 {
		return w.mark()
	}
	if !slices.ContainsFunc(there, func(e os.DirEntry) bool { return e.Name() == workMark }) {
		return fmt.Errorf("limpet import would work in %s, but did not make that folder: there is %s in it; move it away, or give another --data-dir", w.path, there[0].Name())
	}
	for _, e := range there {
		if e.Name() != workMark && !slices.Contains(w.files(), filepath.Join(w.path, e.Name())) {
			return fmt.Errorf("limpet import works in %s, and did not make what is there as %s: move that away", w.path, e.Name())
		}
	}
	return w.clear() // what an import that was cut short has left
}

// mark makes the folder an import's, before anything else is in it.
func (w *workplace) mark() error {
	f, err := os.OpenFile(w.markFile(), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return w.unmade(err)
	}
	return errors.Join(f.Sync(), f.Close(), safefile.SyncDir(w.path), safefile.SyncDir(filepath.Dir(w.path)))
}

func (w *workplace) markFile() string { return filepath.Join(w.path, workMark) }
func (w *workplace) database() string { return filepath.Join(w.path, "limpet.db") }
func (w *workplace) snapshot() string { return filepath.Join(w.path, "snapshot.db") }

// hasRoom is an error if so many bytes cannot be written here.
func (w *workplace) hasRoom(bytes int64) error {
	var st unix.Statfs_t
	if err := unix.Statfs(w.path, &st); err != nil {
		return nil // then writing has to tell
	}
	if free := st.Bavail * uint64(st.Bsize); free < uint64(bytes) {
		return fmt.Errorf("the disk of %s has %s free, and the snapshot alone needs %s: make room, or give another place with --temp-dir", w.path, bytesText(int64(free)), bytesText(bytes))
	}
	return nil
}

// files are all that an import may make here, SQLite's among them.
func (w *workplace) files() []string {
	files := []string{w.snapshot()}
	for _, db := range []string{w.database(), w.database() + ".building"} {
		files = append(files, db, db+"-journal", db+"-wal", db+"-shm")
	}
	return files
}

func (w *workplace) clear() error {
	var errs []error
	for _, file := range w.files() {
		if err := os.Remove(file); !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// close removes the folder, unless somebody has put something there meanwhile.
func (w *workplace) close() error {
	err := w.clear()
	if err == nil {
		err = os.Remove(w.markFile())
	}
	if err == nil {
		if err = os.Remove(w.path); errors.Is(err, syscall.ENOTEMPTY) {
			err = nil
		}
	}
	return errors.Join(err, w.lock.Close())
}

// holds tells whether a file lies in the folder, whatever it is called by.
func (w *workplace) holds(file string) bool {
	here, err := os.Stat(w.path)
	if err != nil {
		return false
	}
	at, err := filepath.EvalSymlinks(file)
	if err == nil {
		at, err = filepath.Abs(at)
	}
	for ; err == nil; at = filepath.Dir(at) {
		var info os.FileInfo
		if info, err = os.Stat(at); err == nil && os.SameFile(info, here) {
			return true
		}
		if at == filepath.Dir(at) {
			break
		}
	}
	return false
}
