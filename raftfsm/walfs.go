package raftfsm

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/hashicorp/raft-wal/fs"
	"github.com/hashicorp/raft-wal/types"
	"golang.org/x/sys/unix"

	"limpet/safefile"
)

// spareName is the next segment in preparation: zeroed, synced, without a
// meaning until it is renamed. The log's own listing ignores the name.
const spareName = "spare.tmp"

const (
	// zeroWrite is how much of a spare one write fills. The kernel keeps the
	// pages of one write together and would later handle them together: with
	// larger writes each sync of a few bytes costs twice the CPU.
	zeroWrite = 4 << 10
	// zeroSync is how much of it is synced at a time, so that a slow card is
	// never busy with it for long.
	zeroSync = 256 << 10
	// fast is the time in which a busy log fills a segment.
	fast = 5 * time.Second
)

// walFS is raft-wal's file system, with segments that are written to before
// they are used. A write into blocks that exist and hold zeros changes no
// metadata, so fdatasync makes it durable with one flush of the device; into
// blocks only reserved, as fallocate leaves them, each sync drags a commit of
// the file system's journal along: twice the flushes, and about four times the
// bytes (bench/, row idle).
//
// The zeros are written beforehand, in the background, into a spare that
// becomes the next segment by a rename. While segments fill within seconds the
// spare is only reserved: entries then carry many requests, which share the
// journal's cost, and the zeros would double what must be written.
type walFS struct {
	*fs.FS
	dir  string
	size uint64
	lazy bool // nothing that is written to segments is synced; set before the first write

	// mu guards the fields below.
	mu        sync.Mutex
	preparing chan struct{} // closed when the spare under way is done; nil if none is
	created   time.Time     // when the newest segment was
}

func newWALFS(dir string, size uint64) *walFS {
	return &walFS{FS: fs.New(), dir: dir, size: size}
}

// Create implements types.VFS.
func (w *walFS) Create(dir, name string, size uint64) (types.WritableFile, error) {
	path := filepath.Join(dir, name)
	if _, err := os.Lstat(path); err == nil {
		return nil, fmt.Errorf("create %s: %w", path, os.ErrExist)
	}
	spare := filepath.Join(w.dir, spareName)
	if ready := w.takeSpare(spare); !ready || size != w.size {
		if err := writeZeros(spare, size); err != nil {
			return nil, err
		}
	}
	if err := os.Rename(spare, path); err != nil {
		return nil, err
	}
	if err := safefile.SyncDir(dir); err != nil {
		return nil, err
	}
	f, err := w.OpenWriter(dir, name)
	if err != nil {
		return nil, err
	}
	w.prepare(spare)
	return f, nil
}

// takeSpare waits for a spare under way and reports whether a whole one is
// there.
func (w *walFS) takeSpare(path string) bool {
	w.mu.Lock()
	under := w.preparing
	w.preparing = nil
	w.mu.Unlock()
	if under == nil {
		return false // left by an earlier process, perhaps half done
	}
	<-under
	info, err := os.Stat(path)
	return err == nil && uint64(info.Size()) == w.size
}

// prepare makes the next spare in the background.
func (w *walFS) prepare(path string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	fill := writeZeros
	if time.Since(w.created) < fast {
		fill = reserve
	}
	w.created = time.Now()
	done := make(chan struct{})
	w.preparing = done
	// Owner: walFS; ends when the spare is written. close waits for it.
	go func() {
		defer close(done)
		if err := fill(path, w.size); err != nil {
			_ = os.Remove(path) // Create will try again and report
		}
	}()
}

// close waits for the spare under way and removes it.
func (w *walFS) close() {
	w.mu.Lock()
	under := w.preparing
	w.preparing = nil
	w.mu.Unlock()
	if under != nil {
		<-under
	}
	_ = os.Remove(filepath.Join(w.dir, spareName))
}

// OpenWriter implements types.VFS.
func (w *walFS) OpenWriter(dir, name string) (types.WritableFile, error) {
	f, err := os.OpenFile(filepath.Join(dir, name), os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	return &walFile{f, w}, nil
}

// walFile is a segment that is written to.
type walFile struct {
	*os.File
	fs *walFS
}

// Sync makes the data durable. The file's size and blocks do not change after
// its creation, so its metadata need not be.
func (f *walFile) Sync() error {
	if f.fs.lazy {
		return nil
	}
	for {
		if err := unix.Fdatasync(int(f.Fd())); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// writeZeros makes path a file of size zeros, synced.
func writeZeros(path string, size uint64) (err error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	zeros := make([]byte, zeroWrite)
	for done := uint64(0); done < size; {
		n := min(uint64(len(zeros)), size-done)
		if _, err := f.Write(zeros[:n]); err != nil {
			return err
		}
		if done += n; done%zeroSync == 0 {
			if err := unix.Fdatasync(int(f.Fd())); err != nil {
				return err
			}
		}
	}
	return f.Sync()
}

// reserve makes path a file of size bytes that read as zeros, without writing
// them. Where the file system cannot, it writes them.
func reserve(path string, size uint64) (err error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	err = unix.Fallocate(int(f.Fd()), 0, 0, int64(size))
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return writeZeros(path, size)
	}
	return nil
}
