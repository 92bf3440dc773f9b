package raftfsm

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"reflect"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"

	"limpet/txn"
	"limpet/v2tree"
)

// allKinds is one command of each kind, none of them empty.
func allKinds() []txn.Command {
	return []txn.Command{
		&pb.PutRequest{Key: []byte("k"), Value: []byte("v"), Lease: 7, PrevKv: true},
		&pb.DeleteRangeRequest{Key: []byte("a"), RangeEnd: []byte("b"), PrevKv: true},
		&pb.TxnRequest{
			Compare: []*pb.Compare{{Key: []byte("k"), Result: pb.Compare_GREATER, Target: pb.Compare_VERSION, TargetUnion: &pb.Compare_Version{Version: 3}}},
			Success: []*pb.RequestOp{{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte("x"), Value: make([]byte, 300)}}}},
			Failure: []*pb.RequestOp{{Request: &pb.RequestOp_RequestTxn{RequestTxn: &pb.TxnRequest{}}}},
		},
		&pb.CompactionRequest{Revision: 12, Physical: true},
		&pb.LeaseGrantRequest{ID: -5, TTL: 60},
		&pb.LeaseRevokeRequest{ID: math.MaxInt64},
		&pb.AlarmRequest{Action: pb.AlarmRequest_ACTIVATE, MemberID: math.MaxUint64, Alarm: pb.AlarmType_NOSPACE},
		&txn.Member{ID: math.MaxUint64, Name: "näme", PeerURLs: []string{"http://a:1"}, ClientURLs: []string{"http://a:2", "http://b:2"}, Learner: true},
		&v2tree.Request{Op: v2tree.Set, Path: "/a/b", Value: "v", Expires: 9, Time: 3},
		&v2tree.Expire{Now: 9},
	}
}

func encode(t testing.TB, h entryHead, cmds ...txn.Command) []byte {
	t.Helper()
	if h.format == 0 {
		h.format = byte(EntryFormat)
	}
	b := appendHead(nil, h)
	for _, cmd := range cmds {
		kind, data, err := txn.Append(nil, cmd)
		if err != nil {
			t.Fatalf("txn.Append(%T): %v", cmd, err)
		}
		b = appendCommand(b, kind, data)
	}
	return sealEntry(b)
}

func decode(b []byte) (entryHead, []txn.Command, error) {
	h, rest, err := decodeHead(b)
	if err != nil {
		return h, nil, err
	}
	cmds, err := decodeCommands(rest)
	return h, cmds, err
}

func equalCommands(a, b txn.Command) bool {
	x, isProto := a.(proto.Message)
	y, alsoProto := b.(proto.Message)
	if isProto && alsoProto {
		return proto.Equal(x, y)
	}
	return reflect.DeepEqual(a, b)
}

func TestEntryRoundTrip(t *testing.T) {
	kinds := allKinds()
	for _, c := range []struct {
		name string
		head entryHead
		cmds []txn.Command
	}{
		{"the empty entry of a new term", entryHead{member: 1, time: 1}, nil},
		{"one command", entryHead{member: 1, batch: 2, time: 3}, kinds[:1]},
		{"every kind", entryHead{member: math.MaxUint64, batch: math.MaxUint64, time: math.MaxInt64}, kinds},
		{"a clock before 1970", entryHead{member: 1, batch: 1, time: -1}, kinds[3:5]},
		{"commands without a byte", entryHead{}, []txn.Command{&pb.PutRequest{}, &pb.TxnRequest{}, &pb.LeaseGrantRequest{}}},
		{"a length of several bytes", entryHead{}, []txn.Command{&pb.PutRequest{Key: []byte("k"), Value: make([]byte, 70000)}, kinds[0]}},
	} {
		t.Run(c.name, func(t *testing.T) {
			head, cmds, err := decode(encode(t, c.head, c.cmds...))
			if err != nil {
				t.Fatal(err)
			}
			c.head.format = byte(EntryFormat)
			if head != c.head {
				t.Errorf("head: got %+v, want %+v", head, c.head)
			}
			if len(cmds) != len(c.cmds) {
				t.Fatalf("got %d commands, want %d", len(cmds), len(c.cmds))
			}
			for i := range cmds {
				if !equalCommands(cmds[i], c.cmds[i]) {
					t.Errorf("command %d: got %v, want %v", i, cmds[i], c.cmds[i])
				}
			}
		})
	}
}

// The layout is on disk: a change of these bytes is a new format version.
func TestEntryBytes(t *testing.T) {
	put := &pb.PutRequest{Key: []byte("k"), Value: []byte("v")}
	got := encode(t, entryHead{format: 1, member: 0x0102, batch: 0x0304, time: 0x0506}, put)
	want := []byte{
		1,
		0, 0, 0, 0, 0, 0, 1, 2,
		0, 0, 0, 0, 0, 0, 3, 4,
		0, 0, 0, 0, 0, 0, 5, 6,
		1, 6, 10, 1, 'k', 18, 1, 'v',
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("entry:\n got %v\nwant %v", got, want)
	}
	got = encode(t, entryHead{format: 2, member: 0x0102, batch: 0x0304, time: 0x0506}, put)
	want[0] = 2
	want = append(want, 194, 184, 158, 162) // CRC-32C
	if !reflect.DeepEqual(got, want) {
		t.Errorf("entry of format 2:\n got %v\nwant %v", got, want)
	}
}

// playOlder makes this program one that knows format 1 only, for the test's rest.
func playOlder(t *testing.T) {
	EntryFormat = 1
	t.Cleanup(func() { EntryFormat = newestFormat })
}

// TestFormatLimit: a build that plays an older limpet reads what that one read,
// and refuses what it did.
func TestFormatLimit(t *testing.T) {
	for limit, want := range map[string]int{"": newestFormat, "1": 1, "2": 2, "4": 4, "6": 6, "8": 8, "9": newestFormat, "0": newestFormat, "x": newestFormat} {
		if got := knownFormat(limit); got != want {
			t.Errorf("with the limit %q: format %d, want %d", limit, got, want)
		}
	}
	older := encode(t, entryHead{format: 1, member: 1, batch: 2, time: 3}, allKinds()...)
	newer := encode(t, entryHead{format: 2, member: 1, batch: 2, time: 3}, allKinds()...)
	damaged := append([]byte(nil), newer...)
	damaged[entryHeader]++
	unknown := append([]byte{newestFormat + 1}, newer[1:]...)
	if _, _, err := decode(unknown); !errors.Is(err, errNewer) || !strings.Contains(err.Error(), fmt.Sprintf("format %d, this program knows %d: upgrade limpet", newestFormat+1, newestFormat)) {
		t.Errorf("an entry of a newer format: got %v, want errNewer and both formats", err)
	}
	for _, format := range []byte{4, 6, 8} {
		if _, cmds, err := decode(encode(t, entryHead{format: format, member: 1}, &txn.RotationStep{})); err != nil || len(cmds) != 1 {
			t.Errorf("an entry of format %d: got %v, %v", format, cmds, err)
		}
	}
	playOlder(t)
	if _, cmds, err := decode(older); err != nil || len(cmds) != len(allKinds()) {
		t.Errorf("an entry of format 1: got %d commands, %v, want all of them", len(cmds), err)
	}
	want := "format 2, this program knows 1: upgrade limpet"
	if _, _, err := decode(newer); !errors.Is(err, errNewer) || !strings.Contains(err.Error(), want) {
		t.Errorf("an entry of format 2: got %v, want errNewer with %q", err, want)
	}
	if err := checkSum(damaged); !errors.Is(err, errNewer) {
		t.Errorf("the sum of an entry of format 2: got %v, want errNewer, and no look at the sum", err)
	}
}

// Whatever bit of an entry flips, it is noticed.
func TestEntryDamage(t *testing.T) {
	whole := encode(t, entryHead{member: 1, batch: 2, time: 3}, allKinds()[:2]...)
	for bit := range len(whole) * 8 {
		damaged := append([]byte(nil), whole...)
		damaged[bit/8] ^= 1 << (bit % 8)
		if _, _, err := decode(damaged); err == nil {
			t.Errorf("bit %d of %d flipped: decoded", bit, len(whole)*8)
		}
	}
}

func TestDecodeRefuses(t *testing.T) {
	whole := encode(t, entryHead{format: 1, member: 1, batch: 2, time: 3}, allKinds()...)
	head := whole[:entryHeader:entryHeader]
	for _, c := range []struct {
		name  string
		entry []byte
		want  string
	}{
		{"nothing", nil, "0 bytes, want at least 25"},
		{"half a head", head[:entryHeader-1], "24 bytes, want at least 25"},
		{"a kind without a length", append(head, 1), "command 0 claims 0 bytes, 0 are left"},
		{"a length without an end", append(head, 1, 0x80), "command 0 claims 0 bytes, 1 are left"},
		{"a length that overflows", append(head, append([]byte{1}, 255, 255, 255, 255, 255, 255, 255, 255, 255, 2)...), "command 0 claims"},
		{"more claimed than there is", append(head, 1, 6, 10, 1, 'k'), "command 0 claims 6 bytes"},
		{"the greatest length", append(head, binary.AppendUvarint([]byte{1}, math.MaxUint64)...), "command 0 claims 18446744073709551615 bytes"},
		{"a kind that is not known", append(head, 200, 0), "command 0: txn: unknown command kind 200: written by a newer limpet"},
		{"a kind of 0", append(head, 0, 0), "unknown command kind 0"},
		{"no protobuf", append(head, 1, 2, 255, 255), "command 0:"},
		{"no JSON", append(head, 8, 1, '{'), "command 0:"},
		{"more commands than a batch has", append(head, bytes.Repeat([]byte{1, 0}, maxBatchCount+1)...), "command 1024: a batch has at most 1024"},
		{"a founder that is none", appendCommand(head, 9, []byte(`{"members":[{},null]}`)), "command 0: txn: a founding with a member that is none"},
		{"a good command, then a bad one", append(head, 1, 3, 10, 1, 'k', 200, 0), "command 1: txn: unknown command kind 200"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, cmds, err := decode(c.entry)
			if !errors.Is(err, errEntry) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("decode %v: got %v, want errEntry with %q", c.entry, err, c.want)
			}
			if cmds != nil {
				t.Errorf("commands beside the error: got %v, want none", cmds)
			}
		})
	}
	// However it is cut, an entry is refused or shorter, never more than it was.
	for n := range whole {
		if _, cmds, err := decode(whole[:n]); err == nil && len(cmds) >= len(allKinds()) {
			t.Errorf("the first %d of %d bytes: got %d commands and no error", n, len(whole), len(cmds))
		}
	}
}

// FuzzDecodeEntry: whatever lies in the log, decoding ends with commands or an
// error, and what was decoded means the same when written again.
func FuzzDecodeEntry(f *testing.F) {
	whole := encode(f, entryHead{member: 1, batch: 2, time: 3}, allKinds()...)
	f.Add([]byte(nil))
	f.Add(whole)
	f.Add(whole[:entryHeader])
	f.Add(whole[:len(whole)-3])
	f.Add(append(whole[:entryHeader:entryHeader], binary.AppendUvarint([]byte{1}, math.MaxUint64)...))
	f.Add(append(whole[:entryHeader:entryHeader], 200, 0))
	for _, cmd := range allKinds() {
		f.Add(encode(f, entryHead{}, cmd))
		f.Add(encode(f, entryHead{format: 1}, cmd)) // without a sum, which no mutation would find
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		head, cmds, err := decode(b)
		if err != nil {
			if newer := len(b) >= entryHeader && b[0] > newestFormat; errors.Is(err, errNewer) != newer || errors.Is(err, errEntry) == newer {
				t.Fatalf("got %v; of a newer limpet: %v", err, newer)
			}
			return
		}
		if least := entryHeader + 2*len(cmds); len(b) < least {
			t.Fatalf("%d commands from %d bytes, want at least %d", len(cmds), len(b), least)
		}
		head2, cmds2, err := decode(encode(t, head, cmds...))
		if err != nil || head2 != head || len(cmds2) != len(cmds) {
			t.Fatalf("again: got %+v, %d commands, %v, want %+v, %d commands", head2, len(cmds2), err, head, len(cmds))
		}
		for i := range cmds {
			if !equalCommands(cmds[i], cmds2[i]) {
				t.Errorf("command %d again: got %v, want %v", i, cmds2[i], cmds[i])
			}
		}
	})
}
