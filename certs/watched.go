package certs

import (
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync/atomic"
)

// watched is what some files hold, read again when they change. Invariant: it
// always has a value, that of the last time that all could be read. All methods
// may be called concurrently.
type watched[T any] struct {
	files []string
	read  func() (T, error)
	log   *slog.Logger
	last  atomic.Pointer[reading[T]]
}

// reading is the outcome of reading the files once.
type reading[T any] struct {
	value  T
	stamps []os.FileInfo // of the files, before they were read
	err    error         // why value is older than the files
}

// watch reads the files for the first time.
func watch[T any](log *slog.Logger, read func() (T, error), files ...string) (*watched[T], error) {
	w := &watched[T]{files: files, read: read, log: log}
	first := &reading[T]{stamps: w.stamps()}
	if first.value, first.err = read(); first.err != nil {
		return nil, first.err
	}
	w.last.Store(first)
	return w, nil
}

// get returns the present content. It asks the file system whether the files
// have changed, which takes microseconds; several callers at once may read them
// twice.
func (w *watched[T]) get() T {
	was := w.last.Load()
	now := &reading[T]{stamps: w.stamps()}
	// While something is wrong, every call tries again: files are often replaced
	// one after the other.
	if was.err == nil && slices.EqualFunc(was.stamps, now.stamps, same) {
		return was.value
	}
	if now.value, now.err = w.read(); now.err != nil {
		now.value = was.value
	}
	if w.last.CompareAndSwap(was, now) {
		w.tell(was.err, now.err)
	}
	return now.value
}

// reread reads the files whether or not they have changed, and returns why they
// cannot be read.
func (w *watched[T]) reread() error {
	was := w.last.Load()
	now := &reading[T]{stamps: w.stamps()}
	if now.value, now.err = w.read(); now.err != nil {
		now.value = was.value
	}
	if w.last.CompareAndSwap(was, now) {
		w.tell(was.err, now.err)
	}
	return now.err
}

// tell logs what has changed, and what keeps being wrong only once.
func (w *watched[T]) tell(was, now error) {
	switch files := strings.Join(w.files, ", "); {
	case now == nil:
		w.log.Info("files of TLS were read again", "files", files)
	case was == nil || was.Error() != now.Error():
		w.log.Warn("files of TLS cannot be read again; what they held before stays in force until they are put right", "files", files, "error", now)
	}
}

// stamps has nil for a file that is not there.
func (w *watched[T]) stamps() []os.FileInfo {
	out := make([]os.FileInfo, len(w.files))
	for i, f := range w.files {
		if info, err := os.Stat(f); err == nil {
			out[i] = info
		}
	}
	return out
}

// same reports whether a file is the one it was: neither replaced nor written to.
func same(a, b os.FileInfo) bool {
	if a == nil || b == nil {
		return a == b
	}
	return os.SameFile(a, b) && a.Size() == b.Size() && a.ModTime().Equal(b.ModTime())
}
