package raftfsm

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"time"

	"github.com/hashicorp/raft-wal/metadb"
	"github.com/hashicorp/raft-wal/segment"
	"github.com/hashicorp/raft-wal/types"
	"golang.org/x/sys/unix"
)

// metaStore is raft-wal's, and repairs the log's tail before raft-wal opens it.
// Two states that a crash can leave are beyond raft-wal 0.4 (its Open neither
// rotates a tail that is sealed in the file only, nor forgets a seal that was
// torn): every append would fail with "segment is sealed" for good.
type metaStore struct {
	metadb.BoltMetaDB
}

// Load implements types.MetaStore.
func (m *metaStore) Load(dir string) (types.PersistentState, error) {
	state, err := m.BoltMetaDB.Load(dir)
	if err != nil {
		return state, err
	}
	// It is made for everybody to read, where nothing else here is.
	if err := os.Chmod(filepath.Join(dir, metadb.FileName), 0o600); err != nil || len(state.Segments) == 0 {
		return state, err
	}
	last := &state.Segments[len(state.Segments)-1]
	if !last.SealTime.IsZero() {
		return state, nil
	}
	tail, err := repairTail(filepath.Join(dir, segment.FileName(*last)))
	if errors.Is(err, os.ErrNotExist) {
		return state, nil // raft-wal creates it
	}
	if err != nil {
		return state, errors.Join(err, m.Close()) // raft-wal would leave it open, and locked
	}
	if tail.indexStart == 0 {
		return state, nil
	}
	// The crash came between sealing the file and noting it: finish the
	// rotation as raft-wal would have.
	last.SealTime = time.Now()
	last.IndexStart = tail.indexStart
	last.MaxIndex = last.BaseIndex + tail.entries - 1
	state.Segments = append(state.Segments, types.SegmentInfo{
		ID: state.NextSegmentID, BaseIndex: last.MaxIndex + 1, MinIndex: last.MaxIndex + 1,
		Codec: last.Codec, SizeLimit: last.SizeLimit, CreateTime: time.Now(),
	})
	state.NextSegmentID++
	return state, m.CommitState(state)
}

// The layout of a segment file (raft-wal, segment/format.go): a header of 32
// bytes, then frames, each a type byte, three zero bytes and four bytes of
// length (or CRC-32C, in a commit), little endian, then the payload padded to 8
// bytes. A commit's CRC covers everything since the commit before it, the file
// header included in the first. Zeros end the file.
const (
	segmentHeader = 32
	frameHeader   = 8
	frameEntry    = 1
	frameIndex    = 2
	frameCommit   = 3
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// tailState is what a tail segment holds up to its last whole commit.
type tailState struct {
	end        int    // offset behind the last whole commit
	entries    uint64 // entries committed
	indexStart uint64 // offset of the committed index, 0 if the file is not sealed
}

// repairTail zeroes what lies behind the last whole commit of a tail segment:
// the record that a crash tore, which nobody was told of. Damage before a later
// commit is something else, and an error: those records were acknowledged.
func repairTail(path string) (tailState, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return tailState{}, err
	}
	defer func() { _ = f.Close() }()
	data, err := os.ReadFile(path)
	if err != nil {
		return tailState{}, err
	}
	tail, err := scanTail(data)
	if err != nil {
		return tail, fmt.Errorf("%s: %w", path, err)
	}
	rest := bytes.TrimRight(data[tail.end:], "\x00")
	if len(rest) == 0 {
		return tail, nil
	}
	if _, err := f.WriteAt(make([]byte, len(rest)), int64(tail.end)); err != nil {
		return tail, err
	}
	return tail, unix.Fdatasync(int(f.Fd()))
}

// scanTail reads whole commits from the start of a segment. What follows the last
// one is what a crash tore, unless another whole commit lies behind it: each is
// synced before the next is written.
func scanTail(data []byte) (tailState, error) {
	var good tailState
	for start := 0; ; {
		b, ok := readBatch(data, start)
		if !ok {
			if commitBehind(data, max(start, segmentHeader)) {
				return good, fmt.Errorf("the raft log is damaged behind offset %d, before records that were acknowledged; restore the data directory from another copy", start)
			}
			return good, nil
		}
		good.end, good.entries = b.end, good.entries+b.entries
		if b.indexStart != 0 {
			good.indexStart = b.indexStart
		}
		start = b.end
	}
}

// readBatch reads the frames from start to the next commit, and reports whether
// they are what was written. The first batch begins with the file's header.
func readBatch(data []byte, start int) (b tailState, ok bool) {
	for pos := max(start, segmentHeader); pos+frameHeader <= len(data); {
		if data[pos+1]|data[pos+2]|data[pos+3] != 0 {
			return b, false
		}
		size := int(binary.LittleEndian.Uint32(data[pos+4:]))
		switch data[pos] {
		case frameEntry:
			b.entries++
		case frameIndex:
			b.indexStart = uint64(pos + frameHeader)
		case frameCommit:
			b.end = pos + frameHeader
			return b, pos > max(start, segmentHeader) && crc32.Checksum(data[start:pos], castagnoli) == uint32(size)
		default:
			return b, false
		}
		if size > len(data)-pos-frameHeader {
			return b, false
		}
		pos += frameHeader + (size+7)&^7
	}
	return b, false
}

// commitBehind reports whether a whole batch begins anywhere behind from, where
// the chain of frames is broken.
func commitBehind(data []byte, from int) bool {
	for pos := from + frameHeader; pos+2*frameHeader <= len(data); pos += frameHeader {
		if data[pos] == frameEntry || data[pos] == frameIndex {
			if _, ok := readBatch(data, pos); ok {
				return true
			}
		}
	}
	return false
}
