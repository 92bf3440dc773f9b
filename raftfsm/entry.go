package raftfsm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"strconv"

	"limpet/txn"
)

// An entry is one raft log entry: a batch of commands with one time.
//
//	byte  0      format: 1, 2, 4, 6 or 8
//	byte  1-8    ID of the member that proposed it, big endian
//	byte  9-16   the proposer's number for the batch
//	byte 17-24   the proposer's wall clock, Unix milliseconds
//	then, for each command, of which there are at most maxBatchCount:
//	byte         kind (txn)
//	uvarint      length
//	bytes        the command
//	then, from format 2 on:
//	4 bytes      CRC-32C of all bytes before, big endian
//
// raft-wal does not check what it reads, and cards rot: format 2 is for that.
// Formats 4, 6 and 8 are the same, with commands that older programs do not know:
// 6 has those of etcd's v2 API, 8 members' reports that leave their peer URLs as
// they are, or tell which restore made their data (no format is odd: one flipped bit
// would make it 1, which has no sum).
// A format is written once every member reads it, so that members of two versions
// run side by side while they are upgraded. A format this program does not know
// stops the member before it changes anything: a newer limpet must first be
// installed everywhere.
const (
	newestFormat = 8
	v2Format     = 6
	partFormat   = 8
	entryHeader  = 25
	entrySum     = 4
)

// EntryFormat is the newest format that this program reads and writes. It does
// not change while the program runs.
var EntryFormat = knownFormat(formatLimit)

// formatLimit is for test builds: the newest format that an older limpet knew,
// whose part such a build plays when members of two versions meet. Empty: all.
//
//	go build -ldflags "-X limpet/raftfsm.formatLimit=1"
var formatLimit string

func knownFormat(limit string) int {
	if n, err := strconv.Atoi(limit); err == nil && n >= 1 {
		return min(n, newestFormat)
	}
	return newestFormat
}

var (
	errEntry = errors.New("raftfsm: malformed log entry")
	errNewer = errors.New("raftfsm: log entry of a newer limpet")
)

type entryHead struct {
	format byte
	member uint64
	batch  uint64
	time   int64
}

func appendHead(b []byte, h entryHead) []byte {
	b = append(b, h.format)
	b = binary.BigEndian.AppendUint64(b, h.member)
	b = binary.BigEndian.AppendUint64(b, h.batch)
	return binary.BigEndian.AppendUint64(b, uint64(h.time))
}

// sealEntry ends an entry.
func sealEntry(b []byte) []byte {
	if b[0] < 2 {
		return b
	}
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

// checkFormat refuses an entry of a format that this program does not know.
func checkFormat(b []byte) error {
	if len(b) > 0 && int(b[0]) > EntryFormat {
		return fmt.Errorf("%w: format %d, this program knows %d: upgrade limpet", errNewer, b[0], EntryFormat)
	}
	return nil
}

// checkSum makes sure that an entry is as it was written, and of a format known
// here. One without a sum is left to decodeHead.
func checkSum(b []byte) error {
	if err := checkFormat(b); err != nil {
		return err
	}
	if len(b) < entryHeader+entrySum || b[0] < 2 {
		return nil
	}
	body, sum := b[:len(b)-entrySum], binary.BigEndian.Uint32(b[len(b)-entrySum:])
	if got := crc32.Checksum(body, castagnoli); got != sum {
		return fmt.Errorf("%w: checksum %08x, want %08x: it was damaged on the disk or on the way", errEntry, got, sum)
	}
	return nil
}

func decodeHead(b []byte) (h entryHead, rest []byte, err error) {
	if len(b) < entryHeader {
		return h, nil, fmt.Errorf("%w: %d bytes, want at least %d", errEntry, len(b), entryHeader)
	}
	if err := checkFormat(b); err != nil {
		return h, nil, err
	}
	rest = b[entryHeader:]
	switch b[0] {
	case 1:
	case 2, 4, 6, 8:
		if len(rest) < entrySum {
			return h, nil, fmt.Errorf("%w: %d bytes, want at least %d", errEntry, len(b), entryHeader+entrySum)
		}
		if err := checkSum(b); err != nil {
			return h, nil, err
		}
		rest = rest[:len(rest)-entrySum]
	default:
		return h, nil, fmt.Errorf("%w: format %d", errEntry, b[0])
	}
	h.format = b[0]
	h.member = binary.BigEndian.Uint64(b[1:])
	h.batch = binary.BigEndian.Uint64(b[9:])
	h.time = int64(binary.BigEndian.Uint64(b[17:]))
	return h, rest, nil
}

func appendCommand(b []byte, kind byte, data []byte) []byte {
	b = append(b, kind)
	b = binary.AppendUvarint(b, uint64(len(data)))
	return append(b, data...)
}

func decodeCommands(b []byte) ([]txn.Command, error) {
	var cmds []txn.Command
	for len(b) > 0 {
		if len(cmds) == maxBatchCount { // two bytes are a command, of a hundred in memory
			return nil, fmt.Errorf("%w: command %d: a batch has at most %d", errEntry, len(cmds), maxBatchCount)
		}
		kind := b[0]
		n, w := binary.Uvarint(b[1:])
		if w <= 0 || n > uint64(len(b)-1-w) {
			return nil, fmt.Errorf("%w: command %d claims %d bytes, %d are left", errEntry, len(cmds), n, len(b)-1)
		}
		b = b[1+w:]
		cmd, err := txn.Decode(kind, b[:n])
		if err != nil {
			return nil, fmt.Errorf("%w: command %d: %w", errEntry, len(cmds), err)
		}
		cmds = append(cmds, cmd)
		b = b[n:]
	}
	return cmds, nil
}

// checkEntry makes sure that the entry of another member can be applied: one
// that cannot would stop every member.
func checkEntry(b []byte) error {
	_, rest, err := decodeHead(b)
	if err == nil {
		_, err = decodeCommands(rest)
	}
	return err
}
