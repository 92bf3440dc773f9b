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
	if err != nil || tail.indexStart == 0 {
		return state, err
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

func scanTail(data []byte) (tailState, error) {
	var good, cur tailState
	start, damaged := 0, -1
	for pos := segmentHeader; pos+frameHeader <= len(data); {
		size := int(binary.LittleEndian.Uint32(data[pos+4:]))
		switch data[pos] {
		case frameEntry:
			cur.entries++
		case frameIndex:
			cur.indexStart = uint64(pos + frameHeader)
		case frameCommit:
			sum := uint32(size)
			size = 0
			switch {
			case damaged >= 0:
				return good, fmt.Errorf("the raft log is damaged at offset %d, before records that were acknowledged; restore the data directory from another copy", damaged)
			case crc32.Checksum(data[start:pos], castagnoli) != sum:
				damaged = start
			default:
				good = cur
				good.end = pos + frameHeader
			}
			start = pos + frameHeader
		default: // zeros: the end; anything else: torn
			return good, nil
		}
		if size > len(data)-pos-frameHeader {
			return good, nil
		}
		pos += frameHeader + (size+7)&^7
	}
	return good, nil
}
