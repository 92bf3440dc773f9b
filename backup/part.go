package backup

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"limpet/safefile"
)

// part is a file that is not whole yet. While it is open it is locked, so that
// whoever tidies up knows that it is being written.
type part struct{ *os.File }

// ownParts is what the names of parts are like, also in a folder that others use.
const ownParts = ".limpet-*" + partSuffix

// newPart makes one, and removes those in the folder that a process has left which
// had no time to: it was killed, or the power went.
func newPart(dir string) (*part, error) {
	_ = tidyParts(dir, ownParts) // what cannot be removed takes room, and checkRoom tells that
	for {
		f, err := os.CreateTemp(dir, ownParts)
		if err != nil {
			return nil, fmt.Errorf("%s is not writable: %w", dir, plainError(err))
		}
		mine, err := lockPart(f)
		if mine {
			return &part{f}, nil
		}
		if err != nil {
			return nil, errors.Join(fmt.Errorf("lock %s: %w", f.Name(), err), f.Close(), os.Remove(f.Name()))
		}
		if err := f.Close(); err != nil {
			return nil, err
		}
	}
}

// lockPart locks a part that is new. false without an error: somebody who tidies up
// was there before, and takes it away.
func lockPart(f *os.File) (mine bool, err error) {
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); errors.Is(err, syscall.EWOULDBLOCK) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	info, err := f.Stat()
	if err != nil {
		return false, err
	}
	there, err := os.Lstat(f.Name())
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil && os.SameFile(info, there), err
}

// drop removes the file.
func (p *part) drop() error { return errors.Join(os.Remove(p.Name()), p.Close()) }

// become gives the file its name, after all of it is on the disk. What is there
// already is replaced, or is an error. What root makes belongs to the owner of the folder, who is to read it.
func (p *part) become(path string, replace bool) error {
	if err := errors.Join(p.giveTo(filepath.Dir(path)), p.Sync()); err != nil {
		return errors.Join(err, p.drop())
	}
	if _, err := os.Lstat(path); !replace && !errors.Is(err, fs.ErrNotExist) {
		return errors.Join(fmt.Errorf("%s is there already; give another name, or remove it", path), p.drop())
	}
	if err := CheckFile(path); err != nil {
		return errors.Join(err, p.drop())
	}
	if err := os.Rename(p.Name(), path); err != nil {
		return errors.Join(err, p.drop())
	}
	return errors.Join(safefile.SyncDir(filepath.Dir(path)), p.Close())
}

// CheckFile refuses what no file may take the place of: a folder, and above all what
// is no file of its own, as /dev/null or a link to elsewhere.
func CheckFile(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("%s cannot be looked at: %w", path, plainError(err))
	case info.IsDir():
		return fmt.Errorf("%s is a folder; give a file in it, or the folder with --dir", path)
	case info.Mode()&fs.ModeSymlink != 0:
		return fmt.Errorf("%s is a link to elsewhere; give the file itself", path)
	case !info.Mode().IsRegular():
		return fmt.Errorf("%s is no file, but a device, a pipe or the like; give a file", path)
	}
	return nil
}

func (p *part) giveTo(dir string) error {
	info, err := os.Stat(dir)
	if err != nil {
		return err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || os.Geteuid() != 0 || st.Uid == 0 || info.Mode()&os.ModeSticky != 0 { // /tmp is everybody's
		return nil
	}
	return p.Chown(int(st.Uid), int(st.Gid))
}

// tidyParts removes parts that nobody writes any more.
func tidyParts(dir, pattern string) error {
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		if is, _ := filepath.Match(pattern, e.Name()); !is || !e.Type().IsRegular() {
			continue
		}
		name := filepath.Join(dir, e.Name())
		f, oerr := os.OpenFile(name, os.O_RDWR|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
		if oerr != nil {
			continue // gone meanwhile, or another user's
		}
		if syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil {
			err = errors.Join(err, os.Remove(name))
		}
		err = errors.Join(err, f.Close())
	}
	return err
}

// spare is left free on a disk for what else writes there. It is more than what a
// member keeps free for itself: below a fiftieth of the disk, 8 MiB or more and 64 at
// most, it takes no more writes (server, space.go), and no snapshot is worth that.
func spare(st *unix.Statfs_t) int64 {
	return min(max(int64(st.Blocks)*int64(st.Bsize)/50, 8<<20), 64<<20) + 16<<20
}

// checkRoom says so if a disk has not room for so many bytes.
func checkRoom(dir string, bytes int64) error {
	free, spare, err := room(dir)
	if err == nil && free < bytes+spare {
		err = fmt.Errorf("the disk of %s has %s free, and a snapshot needs %s there: make room, or give another folder", dir, sizeText(free), sizeText(bytes+spare))
	}
	return err
}

// room is what a disk has free, and what is to stay so.
func room(dir string) (free, kept int64, err error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, 0, fmt.Errorf("%s cannot be looked at: %w", dir, err)
	}
	return int64(st.Bavail) * int64(st.Bsize), spare(&st), nil
}

// bounded takes no more than left bytes: then the disk counts as full.
type bounded struct {
	w    io.Writer
	left int64
}

// Write implements io.Writer.
func (b *bounded) Write(p []byte) (int, error) {
	if int64(len(p)) > b.left {
		return 0, syscall.ENOSPC
	}
	n, err := b.w.Write(p)
	b.left -= int64(n)
	return n, err
}

func sizeText(n int64) string {
	switch {
	case n < 10<<10:
		return fmt.Sprintf("%d bytes", n)
	case n < 10<<20:
		return fmt.Sprintf("%d KiB", n>>10)
	}
	return fmt.Sprintf("%d MiB", n>>20)
}

// plainError drops the path from a file error: the sentence names it already.
func plainError(err error) error {
	if pe := new(fs.PathError); errors.As(err, &pe) {
		return pe.Err
	}
	return err
}

func isFull(err error) bool { return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) }
