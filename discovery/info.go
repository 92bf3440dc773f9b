package discovery

import (
	"encoding/binary"
	"errors"
	"fmt"
	"unicode/utf8"
)

// errInfo: bytes that are not an encoded Info.
var errInfo = errors.New("discovery: malformed member information")

const (
	// metaSize is memberlist's bound for what a node tells of itself.
	metaSize = 512
	// infoVersion grows when fields are appended. Fields never change or go,
	// so a newer encoding is read as far as it is known.
	infoVersion = 1

	// With these bounds everything but the client URLs always fits: infoFixed
	// + 3 lengths of 2 + 128 + 64 + 259 + 1 = 511.
	infoFixed  = 53
	maxName    = 128
	maxVersion = 64
	maxPeer    = 253 + 1 + 5 // the longest DNS name, a colon, a port

	flagState   = 1 << 0
	flagLeaving = 1 << 1
)

// Info is what a member tells of itself.
type Info struct {
	ID       uint64 // of the member; only an operator's takes its place, at the join
	Instance uint64 // of the process; never changes
	Cluster  uint64 // 0: of none yet
	// State: it has, or ever had, a log entry or a vote.
	State bool
	// Index and Term of its last log entry, as of a few seconds ago.
	Index, Term uint64
	Name        string   // at most 128 bytes are told
	Version     string   // of limpet; at most 64 bytes are told
	Protocol    [2]uint8 // oldest and newest peer protocol understood
	Expect      uint8    // members expected at bootstrap, 0 none
	Recovered   uint64   // the cluster this one was recovered from, 0 none
	Peer        string   // host:port of the peer listener
	// Client holds client URLs. Those that do not fit are not told, last first.
	Client []string
}

// encodeInfo returns at most metaSize bytes, big-endian:
//
//	offset size
//	     0    1  version, 1
//	     1    1  flags: 1 State, 2 leaving (the process is about to end for good)
//	     2    8  ID
//	    10    8  Instance
//	    18    8  Cluster
//	    26    8  Index
//	    34    8  Term
//	    42    8  Recovered
//	    50    2  Protocol, oldest and newest
//	    52    1  Expect
//	    53  2+n  Name: length and bytes
//	          …  Version, Peer: the same
//	          1  number of client URLs, then each: length and bytes
//	          …  fields of later versions
func encodeInfo(in *Info, leaving bool) []byte {
	b := make([]byte, 0, metaSize)
	var flags byte
	if in.State {
		flags |= flagState
	}
	if leaving {
		flags |= flagLeaving
	}
	b = append(b, infoVersion, flags)
	for _, v := range []uint64{in.ID, in.Instance, in.Cluster, in.Index, in.Term, in.Recovered} {
		b = binary.BigEndian.AppendUint64(b, v)
	}
	b = append(b, in.Protocol[0], in.Protocol[1], in.Expect)
	b = appendString(b, clip(in.Name, maxName))
	b = appendString(b, clip(in.Version, maxVersion))
	peer := in.Peer
	if len(peer) > maxPeer {
		peer = "" // no address is that long; half of one would mislead
	}
	b = appendString(b, peer)

	count := len(b)
	b = append(b, 0)
	for _, url := range in.Client {
		if b[count] == 255 || len(b)+2+len(url) > metaSize {
			break
		}
		b = appendString(b, url)
		b[count]++
	}
	return b
}

func appendString(b []byte, s string) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(len(s)))
	return append(b, s...)
}

// clip shortens s to at most max bytes without cutting a character in two.
func clip(s string, max int) string {
	if len(s) <= max {
		return s
	}
	for max > 0 && !utf8.RuneStart(s[max]) {
		max--
	}
	return s[:max]
}

// decodeInfo is the inverse of encodeInfo. Bytes behind the fields known here
// are a later version's and are skipped.
func decodeInfo(b []byte) (in Info, leaving bool, err error) {
	if len(b) > metaSize || len(b) < infoFixed {
		return Info{}, false, fmt.Errorf("%w: %d bytes", errInfo, len(b))
	}
	if b[0] == 0 {
		return Info{}, false, fmt.Errorf("%w: version 0", errInfo)
	}
	in.State, leaving = b[1]&flagState != 0, b[1]&flagLeaving != 0
	for i, v := range []*uint64{&in.ID, &in.Instance, &in.Cluster, &in.Index, &in.Term, &in.Recovered} {
		*v = binary.BigEndian.Uint64(b[2+8*i:])
	}
	in.Protocol, in.Expect = [2]uint8{b[50], b[51]}, b[52]

	rest, ok := b[infoFixed:], true
	for _, s := range []*string{&in.Name, &in.Version, &in.Peer} {
		if *s, rest, ok = cutString(rest); !ok {
			return Info{}, false, fmt.Errorf("%w: cut short", errInfo)
		}
	}
	if len(rest) == 0 {
		return Info{}, false, fmt.Errorf("%w: cut short", errInfo)
	}
	urls := int(rest[0])
	rest = rest[1:]
	for range urls {
		var url string
		if url, rest, ok = cutString(rest); !ok {
			return Info{}, false, fmt.Errorf("%w: cut short", errInfo)
		}
		in.Client = append(in.Client, url)
	}
	return in, leaving, nil
}

// cutString takes a string, length first, from the front of b.
func cutString(b []byte) (s string, rest []byte, ok bool) {
	if len(b) < 2 {
		return "", nil, false
	}
	n := int(binary.BigEndian.Uint16(b))
	if len(b) < 2+n {
		return "", nil, false
	}
	return string(b[2 : 2+n]), b[2+n:], true
}
