package raftfsm

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
	wal "github.com/hashicorp/raft-wal"
	"github.com/hashicorp/raft-wal/segment"
)

// segmentBytes is the size of a log segment: small enough that trimming gives
// space back soon, large enough that rotation is rare.
const segmentBytes = 4 << 20

// sampleBytes is how finely the log's bytes are mapped to indexes.
const sampleBytes = 256 << 10

// logStore is raft-wal with its size known in bytes, so that the log can be
// bounded in them, and with ears: it tells when entries are on disk.
type logStore struct {
	*wal.WAL
	vfs      *walFS
	keep     int64 // bytes that head trimming leaves, for members that lag
	onStored func()
	observe  func(took time.Duration, bytes int)

	written atomic.Int64 // bytes ever appended; with samples, maps bytes to index
	trimmed atomic.Int64 // the same count at the newest trim

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
		// How the bytes spread over the entries is not known after a restart;
		// the files' sizes bound the sum.
		files, _ := filepath.Glob(filepath.Join(dir, "*.wal"))
		l.written.Store(int64(len(files)) * segmentBytes)
		l.samples = []sample{{first, 0}}
	}
	return l, nil
}

// Close closes the log. Nobody may use it any more.
func (l *logStore) Close() error {
	err := l.WAL.Close()
	l.vfs.close()
	return err
}

// StoreLogs implements raft.LogStore.
func (l *logStore) StoreLogs(logs []*raft.Log) error {
	began := time.Now()
	if err := l.WAL.StoreLogs(logs); err != nil {
		return err
	}
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
		l.observe(time.Since(began), bytes)
	}
	if l.onStored != nil {
		l.onStored()
	}
	return nil
}

// StoreLog implements raft.LogStore.
func (l *logStore) StoreLog(log *raft.Log) error { return l.StoreLogs([]*raft.Log{log}) }

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
	to = min(to, l.trimPoint())
	if to < from {
		return nil
	}
	return l.WAL.DeleteRange(from, to)
}

// trimPoint is the highest index whose removal leaves keep bytes, and forgets
// the samples below it.
func (l *logStore) trimPoint() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	total := l.written.Load()
	i := 0
	for i+1 < len(l.samples) && total-l.samples[i+1].total >= l.keep {
		i++
	}
	if len(l.samples) == 0 {
		return 0
	}
	l.samples = l.samples[i:]
	l.trimmed.Store(l.samples[0].total)
	return l.samples[0].index
}
