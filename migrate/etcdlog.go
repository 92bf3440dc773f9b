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
	// Types of the log's records (etcd server/storage/wal, entryType and
	// stateType).
	etcdEntryRecord = 2
	etcdStateRecord = 3
	// maxLogRecord bounds what a damaged length can make us read.
	maxLogRecord = 512 << 20
)

// etcdLast is the index of the last entry in the log beside a member's database,
// member/snap/db. dir is empty if there is no log. Whether that entry was agreed
// on nobody can tell: the log learns it with the next one.
func etcdLast(db string) (last uint64, dir string, err error) {
	abs, err := filepath.Abs(db)
	if err != nil {
		return 0, "", err
	}
	dir = filepath.Join(filepath.Dir(filepath.Dir(abs)), "wal")
	files, _ := filepath.Glob(filepath.Join(dir, "*.wal")) // fails on a bad pattern only
	if len(files) == 0 {
		return 0, "", nil
	}
	slices.Sort(files) // by sequence
	newest := files[len(files)-1]
	last, err = lastEntry(newest)
	// A file without entries yet says in its name which one would be the first.
	var sequence, first uint64
	if _, scanErr := fmt.Sscanf(filepath.Base(newest), "%016x-%016x.wal", &sequence, &first); scanErr == nil && first > 0 {
		last = max(last, first-1)
	}
	if err != nil {
		err = fmt.Errorf("%s: %w", newest, err)
	}
	return last, dir, err
}

// lastEntry reads one file of the log, which is a row of
//
//	8 bytes  length, little-endian: bits 55..0 bytes of the record; if bit 63 is
//	         set, bits 58..56 bytes of padding behind it
//	n        walpb.Record: 1 type, 2 CRC, 3 data
//
// and ends with zeroes, or with what a crash has torn. An entry takes the place of
// those of its index and higher before it.
func lastEntry(file string) (last uint64, err error) {
	f, err := os.Open(file)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	commit := uint64(0)
	for at := int64(0); ; {
		var head [8]byte
		if _, err := f.ReadAt(head[:], at); err != nil {
			return max(last, commit), ignoreEOF(err)
		}
		n := int64(binary.LittleEndian.Uint64(head[:]))
		size, pad := n&(1<<56-1), int64(0)
		if n < 0 {
			pad = n >> 56 & 7
		}
		if size == 0 || size > maxLogRecord {
			return max(last, commit), nil
		}
		record := make([]byte, size)
		if _, err := f.ReadAt(record, at+8); err != nil {
			return max(last, commit), ignoreEOF(err)
		}
		fields, data, err := parseFields(record)
		if err != nil {
			return max(last, commit), nil // torn: nobody was told of it
		}
		// raftpb.Entry: 1 type, 2 term, 3 index; raftpb.HardState: 1 term, 2 vote, 3 commit
		if inner, _, err := parseFields(data); err == nil {
			switch fields[1] {
			case etcdEntryRecord:
				last = inner[3]
			case etcdStateRecord:
				commit = inner[3]
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
