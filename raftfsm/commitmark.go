package raftfsm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"

	"github.com/hashicorp/raft"
)

// commitMark remembers, beside the log, up to where this member has applied it:
// what a killed member finds there was agreed on, even if its database was not
// written yet. It is written before anybody is answered and never synced: a
// power cut may leave an older one, or none, and then less is known.
//
// Invariant: an index is believed only if the log holds an entry of the noted
// term there. Two logs with the same term at an index are the same up to it
// (Raft's Log Matching), so no leftover of another log can speak for this one.
//
//	offset  bytes  big endian
//	     0      8  index
//	     8      8  term of the entry at index
//	    16      4  CRC-32 (IEEE) of the bytes before
type commitMark struct {
	file *os.File
	// What is noted, and how; of the goroutine that applies.
	noted uint64
	buf   [commitMarkBytes]byte
}

const (
	commitMarkName  = "committed"
	commitMarkBytes = 20
)

func openCommitMark(path string) (*commitMark, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	return &commitMark{file: f}, err
}

// note writes the mark. What cannot be written is not remembered; the log and
// the database say what matters.
func (m *commitMark) note(index, term uint64) {
	if index <= m.noted { // applied again
		return
	}
	m.noted = index
	binary.BigEndian.PutUint64(m.buf[0:], index)
	binary.BigEndian.PutUint64(m.buf[8:], term)
	binary.BigEndian.PutUint32(m.buf[16:], crc32.ChecksumIEEE(m.buf[:16]))
	_, _ = m.file.WriteAt(m.buf[:], 0)
}

// committed is the newest index of logs that is known to be agreed on; 0 if
// none is.
func (m *commitMark) committed(logs *logStore) uint64 {
	var b [commitMarkBytes]byte
	if _, err := m.file.ReadAt(b[:], 0); err != nil || crc32.ChecksumIEEE(b[:16]) != binary.BigEndian.Uint32(b[16:]) {
		return 0
	}
	last, err := logs.LastIndex()
	if err != nil {
		return 0
	}
	// A leader's entry may be agreed on before its own disk has it: what precedes
	// it in the same term is, too.
	index := min(last, binary.BigEndian.Uint64(b[0:]))
	if term, err := logs.lastTerm(index); err != nil || term != binary.BigEndian.Uint64(b[8:]) {
		return 0
	}
	m.noted = index
	return index
}

// replayBatch is how many entries are applied at a time.
const replayBatch = 64

// replay applies what the log is known to hold for good beyond the database, so
// that this member can be read although no leader tells it so. raft applies it
// once more, which changes nothing (I6).
func (n *Node) replay() error {
	committed := n.mark.committed(n.logs)
	for index := n.cfg.Store.Applied() + 1; index <= committed; {
		var batch []*raft.Log
		for ; index <= committed && len(batch) < replayBatch; index++ {
			e := new(raft.Log)
			if err := n.logs.GetLog(index, e); err != nil {
				return fmt.Errorf("read index %d of the log: %w", index, err)
			}
			if e.Type == raft.LogCommand {
				if _, _, err := decodeHead(e.Data); err != nil {
					return fmt.Errorf("index %d of the log: %w", index, err)
				}
			}
			batch = append(batch, e)
		}
		n.fsm.ApplyBatch(batch)
	}
	return nil
}

func (m *commitMark) close() error {
	if err := m.file.Close(); !errors.Is(err, os.ErrClosed) {
		return err
	}
	return nil
}
