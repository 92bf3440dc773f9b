package raftfsm

import (
	"encoding/binary"
	"errors"
	"fmt"

	"limpet/txn"
)

// An entry is one raft log entry: a batch of commands with one time.
//
//	byte  0      format version, 1
//	byte  1-8    ID of the member that proposed it, big endian
//	byte  9-16   the proposer's number for the batch
//	byte 17-24   the proposer's wall clock, Unix milliseconds
//	then, to the end, for each command:
//	byte         kind (txn)
//	uvarint      length
//	bytes        the command
//
// A version this program does not know stops the member before it changes
// anything: a newer limpet must first be installed everywhere.
const (
	entryVersion = 1
	entryHeader  = 25
)

var errEntry = errors.New("raftfsm: malformed log entry")

type entryHead struct {
	member uint64
	batch  uint64
	time   int64
}

func appendHead(b []byte, h entryHead) []byte {
	b = append(b, entryVersion)
	b = binary.BigEndian.AppendUint64(b, h.member)
	b = binary.BigEndian.AppendUint64(b, h.batch)
	return binary.BigEndian.AppendUint64(b, uint64(h.time))
}

func decodeHead(b []byte) (h entryHead, rest []byte, err error) {
	if len(b) < entryHeader {
		return h, nil, fmt.Errorf("%w: %d bytes, want at least %d", errEntry, len(b), entryHeader)
	}
	if b[0] != entryVersion {
		return h, nil, fmt.Errorf("%w: format %d, this program knows %d: upgrade limpet", errEntry, b[0], entryVersion)
	}
	h.member = binary.BigEndian.Uint64(b[1:])
	h.batch = binary.BigEndian.Uint64(b[9:])
	h.time = int64(binary.BigEndian.Uint64(b[17:]))
	return h, b[entryHeader:], nil
}

func appendCommand(b []byte, kind byte, data []byte) []byte {
	b = append(b, kind)
	b = binary.AppendUvarint(b, uint64(len(data)))
	return append(b, data...)
}

func decodeCommands(b []byte) ([]txn.Command, error) {
	var cmds []txn.Command
	for len(b) > 0 {
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
