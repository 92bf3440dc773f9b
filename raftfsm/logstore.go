package raftfsm

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
	wal "github.com/hashicorp/raft-wal"
	"github.com/hashicorp/raft-wal/metadb"
	"github.com/hashicorp/raft-wal/segment"
)

// segmentBytes is the size of a log segment: small enough that trimming gives
// space back soon, large enough that rotation is rare.
const segmentBytes = 4 << 20

// sampleBytes is how finely the log's bytes are mapped to indexes.
const sampleBytes = 256 << 10

// syncsKept is how many durations of writes are remembered.
const syncsKept = 128

// mostKept bounds, in multiples of what is kept anyway, what is kept for a
// member that was sent an image: beyond it, it needs another one.
const mostKept = 16

// logStore is raft-wal with its size known in bytes, so that the log can be
// bounded in them, and with ears: it tells when entries go to disk and when they
// are there.
type logStore struct {
	*wal.WAL
	vfs       *walFS
	keep      int64             // bytes that head trimming leaves, for members that lag
	onStoring func([]*raft.Log) // before they are written; may be nil
	onStored  func(took time.Duration)
	onBroken  func(error)
	observe   func(took time.Duration, bytes int)
	floor     func() (index uint64, ok bool) // somebody needs the log above index; may be nil
	began     atomic.Int64                   // when the write under way began, Unix nanoseconds; 0 if none is

	written atomic.Int64 // bytes ever appended; with samples, maps bytes to index
	trimmed atomic.Int64 // the same count at the newest trim

	took   [syncsKept]atomic.Int64 // durations of the newest writes, nanoseconds
	writes atomic.Uint64           // counts them

	mu      sync.Mutex // guards samples
	samples []sample   // ascending
}

// sample says: when entry index was appended, total bytes had been.
type sample struct {
	index uint64
	total int64
}

func openLogStore(dir string, keep int64) (*logStore, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	if err := checkMeta(dir); err != nil {
		return nil, err
	}
	vfs := newWALFS(dir, segmentBytes)
	w, err := wal.Open(dir, wal.WithSegmentSize(segmentBytes), wal.WithSegmentFiler(segment.NewFiler(dir, vfs)), wal.WithMetaStore(&metaStore{}))
	if err != nil {
		vfs.close()
		return nil, fmt.Errorf("open the log in %s: %w", dir, err)
	}
	l := &logStore{WAL: w, vfs: vfs, keep: keep}
	first, err := w.FirstIndex()
	if err != nil {
		return nil, err
	}
	if first > 0 {
		l.sampleFiles(dir, first)
	}
	return l, nil
}

// checkMeta refuses segments without the file that names them: raft-wal would
// take them for leftovers and delete them.
func checkMeta(dir string) error {
	files, _ := filepath.Glob(filepath.Join(dir, "*.wal")) // fails on a bad pattern only
	info, err := os.Stat(filepath.Join(dir, metadb.FileName))
	switch {
	case err == nil && info.Size() == 0, errors.Is(err, os.ErrNotExist) && len(files) > 0:
		return fmt.Errorf("the raft log in %s has %d segments, but %s is missing or empty: it was removed or is damaged; restore the folder", dir, len(files), metadb.FileName)
	case errors.Is(err, os.ErrNotExist):
		return nil
	}
	return err
}

// sampleFiles maps bytes to indexes after a restart: a segment's file name
// carries the index of its first entry, its size bounds the bytes.
func (l *logStore) sampleFiles(dir string, first uint64) {
	files, _ := filepath.Glob(filepath.Join(dir, "*.wal")) // fails on a bad pattern only
	slices.Sort(files)
	for i, f := range files {
		var base, id uint64
		if n, _ := fmt.Sscanf(filepath.Base(f), "%020d-%016x.wal", &base, &id); n == 2 {
			l.samples = append(l.samples, sample{max(base, first), int64(i) * segmentBytes})
		}
	}
	l.written.Store(int64(len(files)) * segmentBytes)
}

// readable makes sure that this program knows the formats of the newest command
// in the log and of all above applied: what a newer limpet has written cannot be
// applied, and its member is to be left as it is.
func (l *logStore) readable(applied uint64) error {
	first, err := l.FirstIndex()
	if err != nil {
		return err
	}
	last, err := l.LastIndex()
	if err != nil || last == 0 {
		return err
	}
	e, seen := new(raft.Log), false
	for index := last; index >= first && (index > applied || !seen); index-- {
		if err := l.GetLog(index, e); err != nil {
			return fmt.Errorf("read index %d of the log: %w", index, err)
		}
		if e.Type != raft.LogCommand {
			continue
		}
		if seen = true; checkFormat(e.Data) != nil {
			return fmt.Errorf("index %d: %w", index, checkFormat(e.Data))
		}
	}
	return nil
}

// Close closes the log. Nobody may use it any more.
func (l *logStore) Close() error {
	err := l.WAL.Close()
	l.vfs.close()
	return err
}

// StoreLogs implements raft.LogStore.
func (l *logStore) StoreLogs(logs []*raft.Log) error {
	for _, e := range logs {
		if e.Type != raft.LogCommand {
			continue
		}
		if err := checkSum(e.Data); err != nil { // before it spreads
			err = fmt.Errorf("index %d: %w", e.Index, err)
			if errors.Is(err, errNewer) && l.onBroken != nil {
				l.onBroken(err)
			}
			return err
		}
	}
	if l.onStoring != nil {
		l.onStoring(logs)
	}
	began := time.Now()
	l.began.Store(began.UnixNano())
	err := l.WAL.StoreLogs(logs)
	l.began.Store(0)
	if err != nil {
		if errors.Is(err, wal.ErrSealed) && l.onBroken != nil {
			// A rotation failed, for want of disk space, say. raft-wal cannot
			// go on in this process; the next start finishes the rotation.
			l.onBroken(fmt.Errorf("the raft log cannot be written until the member is started again, with free disk space: %w", err))
		}
		return err
	}
	took := time.Since(began)
	l.took[l.writes.Add(1)%syncsKept].Store(int64(took))
	bytes := 0
	for _, e := range logs {
		bytes += len(e.Data) + 64
	}
	total := l.written.Add(int64(bytes))
	l.mu.Lock()
	if n := len(l.samples); n == 0 || total-l.samples[n-1].total >= sampleBytes {
		l.samples = append(l.samples, sample{logs[len(logs)-1].Index, total})
	}
	l.mu.Unlock()
	if l.observe != nil {
		l.observe(took, bytes)
	}
	if l.onStored != nil {
		l.onStored(took)
	}
	return nil
}

// StoreLog implements raft.LogStore.
func (l *logStore) StoreLog(log *raft.Log) error { return l.StoreLogs([]*raft.Log{log}) }

// underWay is how long the write under way has taken so far; 0 if none is.
func (l *logStore) underWay() time.Duration {
	began := l.began.Load()
	if began == 0 {
		return 0
	}
	return time.Since(time.Unix(0, began))
}

// syncTime is how long one write in a hundred of the newest ones took, or
// longer, and no less than the one under way; 0 if there was none.
func (l *logStore) syncTime() time.Duration {
	n := min(l.writes.Load(), syncsKept)
	all := make([]int64, 0, n)
	for i := range l.took {
		if d := l.took[i].Load(); d > 0 {
			all = append(all, d)
		}
	}
	if len(all) == 0 {
		return l.underWay()
	}
	slices.Sort(all)
	return max(time.Duration(all[len(all)*99/100]), l.underWay())
}

// newestSync is how long the newest write took.
func (l *logStore) newestSync() time.Duration {
	return time.Duration(l.took[l.writes.Load()%syncsKept].Load())
}

// size is the bytes appended since the newest trim.
func (l *logStore) size() int64 { return l.written.Load() - l.trimmed.Load() }

// DeleteRange implements raft.LogStore. raft asks to trim the head up to its
// snapshot; here the newest keep bytes stay for members that lag. A tail, or
// the whole log, goes exactly as asked: that is a correction, not housekeeping.
func (l *logStore) DeleteRange(from, to uint64) error {
	last, err := l.LastIndex()
	if err != nil {
		return err
	}
	if to >= last {
		l.mu.Lock()
		l.samples = nil
		l.mu.Unlock()
		return l.WAL.DeleteRange(from, to)
	}
	if to = l.trimPoint(to); to < from {
		return nil
	}
	return l.WAL.DeleteRange(from, to)
}

// trimPoint is the highest index, at or below upTo, whose removal leaves keep
// bytes; 0 if there is none. It forgets the samples below.
func (l *logStore) trimPoint(upTo uint64) uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	total := l.written.Load()
	most := uint64(0) // the newest sample that may go
	for _, s := range l.samples {
		if total-s.total >= l.keep {
			most = s.index
		}
	}
	to := min(upTo, most)
	if l.floor != nil && l.size() < mostKept*l.keep {
		if index, ok := l.floor(); ok {
			to = min(to, index)
		}
	}
	for len(l.samples) > 1 && l.samples[1].index <= to {
		l.samples = l.samples[1:]
	}
	if len(l.samples) > 0 && l.samples[0].index <= to {
		l.trimmed.Store(l.samples[0].total)
	}
	return to
}
