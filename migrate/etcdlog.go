package migrate

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"google.golang.org/protobuf/encoding/protowire"
)

const (
	// etcdStateRecord is the type of the log records that hold raft's state
	// (etcd server/storage/wal, stateType).
	etcdStateRecord = 3
	// maxLogRecord bounds what a damaged length can make us read.
	maxLogRecord = 512 << 20
)

// etcdCommit is the index up to which the log beside a member's database,
// member/snap/db, says that entries are agreed on. dir is empty if there is none.
func etcdCommit(db string) (commit uint64, dir string, err error) {
	abs, err := filepath.Abs(db)
	if err != nil {
		return 0, "", err
	}
	dir = filepath.Join(filepath.Dir(filepath.Dir(abs)), "wal")
	files, _ := filepath.Glob(filepath.Join(dir, "*.wal")) // fails on a bad pattern only
	if len(files) == 0 {
		return 0, "", nil
	}
	slices.Sort(files) // named by sequence, then index
	// Each file begins with the state at its beginning, if there was one.
	for _, file := range slices.Backward(files) {
		found, last, err := lastCommit(file)
		if err != nil {
			return 0, dir, fmt.Errorf("%s: %w", file, err)
		}
		if found {
			return last, dir, nil
		}
	}
	return 0, dir, nil
}

// lastCommit reads one file of the log, which is a row of
//
//	8 bytes  length, little-endian: bits 55..0 bytes of the record; if bit 63 is
//	         set, bits 58..56 bytes of padding behind it
//	n        walpb.Record: 1 type, 2 CRC, 3 data
//
// and ends with zeroes, or with what a crash has torn.
func lastCommit(file string) (found bool, commit uint64, err error) {
	f, err := os.Open(file)
	if err != nil {
		return false, 0, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	for at := int64(0); ; {
		var head [8]byte
		if _, err := f.ReadAt(head[:], at); err != nil {
			return found, commit, ignoreEOF(err)
		}
		n := int64(binary.LittleEndian.Uint64(head[:]))
		size, pad := n&(1<<56-1), int64(0)
		if n < 0 {
			pad = n >> 56 & 7
		}
		if size == 0 || size > maxLogRecord {
			return found, commit, nil
		}
		record := make([]byte, size)
		if _, err := f.ReadAt(record, at+8); err != nil {
			return found, commit, ignoreEOF(err)
		}
		fields, data, err := parseFields(record)
		if err != nil {
			return found, commit, nil // torn: nobody was told of it
		}
		if fields[1] == etcdStateRecord {
			// raftpb.HardState: 1 term, 2 vote, 3 commit
			if state, _, err := parseFields(data); err == nil {
				found, commit = true, state[3]
			}
		}
		at += 8 + size + pad
	}
}

func ignoreEOF(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return nil
	}
	return err
}

// parseFields reads the numbers of a message by field, and its field 3 if that
// is bytes.
func parseFields(b []byte) (numbers map[protowire.Number]uint64, data []byte, err error) {
	numbers = make(map[protowire.Number]uint64)
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return nil, nil, protowire.ParseError(n)
		}
		b = b[n:]
		switch {
		case typ == protowire.VarintType:
			numbers[num], n = protowire.ConsumeVarint(b)
		case typ == protowire.BytesType && num == 3:
			data, n = protowire.ConsumeBytes(b)
		default:
			n = protowire.ConsumeFieldValue(num, typ, b)
		}
		if n < 0 {
			return nil, nil, protowire.ParseError(n)
		}
		b = b[n:]
	}
	return numbers, data, nil
}
