package peer

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
)

// A greeting on the wire:
//
//	caller   8 bytes  "limpet\x00" and the version of this table, 1
//	caller   4 bytes  length of what follows, big endian, at most 4096
//	caller            Hello as JSON
//	port     4 bytes  length
//	port              Answer as JSON
//
// Unknown fields are ignored: newer versions may add some.
const (
	magic        = "limpet\x00\x01"
	maxGreeting  = 4096
	lengthPrefix = 4

	// A caller that speaks TLS begins with these bytes (RFC 8446, section 5.1), and
	// a TLS port answers a plain greeting with an alert.
	tlsHandshake, tlsMajor = 22, 3
	tlsAlert               = 21
)

// Protocol is the range of peer protocols that this program speaks.
var Protocol = [2]int{1, 1}

// Purpose is what a connection is for.
type Purpose string

// Purposes.
const (
	Raft Purpose = "raft"
	Call Purpose = "call"
	Ask  Purpose = "ask"
	// Look only asks who is there. Whoever is asked must not look at anybody else
	// before it answers: all may be looking at each other.
	Look Purpose = "look"
)

// Hello is what each side of a connection says of itself.
type Hello struct {
	Protocol [2]int `json:"protocol"` // oldest and newest understood
	ID       uint64 `json:"id"`
	Instance uint64 `json:"instance"` // of the process: differs at each start
	Cluster  uint64 `json:"cluster"`  // 0: none yet
	Name     string `json:"name"`
	Version  string `json:"version"`
	Address  string `json:"address"` // host:port of its own port, as it advertises it
	// Restored tells which restore of a snapshot made the member's data, 0 if none did.
	Restored uint64 `json:"restored,omitempty"`

	// What a caller says beside.
	Purpose Purpose `json:"purpose,omitempty"`
	To      uint64  `json:"to,omitempty"` // whom it wants; 0: whoever is there
}

// Answer is what the port says to a Hello.
type Answer struct {
	Hello
	Refused *Refusal `json:"refused,omitempty"`
}

// Refusal is why a connection is not wanted.
type Refusal struct {
	Code Code   `json:"code"`
	Text string `json:"text"` // a sentence without the full stop
}

// Error implements error.
func (r *Refusal) Error() string { return r.Text }

// Code names a reason, for programs.
type Code string

// Codes.
const (
	OtherProtocol Code = "protocol" // no version in common
	OtherCluster  Code = "cluster"
	OtherMember   Code = "member" // not the one that was meant
	NoMember      Code = "nomember"
	Removed       Code = "removed"
	Recovered     Code = "recovered" // the cluster went on as another one
	Copy          Code = "copy"      // of the data directory of a member that runs
	Restored      Code = "restored"  // once more, under the same ID
)

func writeJSON(w io.Writer, prefix string, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if len(data) > maxGreeting {
		return fmt.Errorf("peer: a greeting of %d bytes, want at most %d", len(data), maxGreeting)
	}
	b := binary.BigEndian.AppendUint32([]byte(prefix), uint32(len(data)))
	_, err = w.Write(append(b, data...))
	return err
}

func readJSON(r io.Reader, v any) error {
	var head [lengthPrefix]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return err
	}
	if head[0] == tlsAlert && head[1] == tlsMajor {
		return fmt.Errorf("%w: it speaks TLS, and this member has no token", ErrOtherToken)
	}
	n := binary.BigEndian.Uint32(head[:])
	if n > maxGreeting {
		return fmt.Errorf("peer: a greeting claims %d bytes, want at most %d", n, maxGreeting)
	}
	data := make([]byte, n)
	if _, err := io.ReadFull(r, data); err != nil {
		return err
	}
	if err := json.Unmarshal(data, v); err != nil {
		return fmt.Errorf("peer: a greeting that cannot be read: %w", err)
	}
	return nil
}

func readHello(r io.Reader) (h Hello, err error) {
	got := make([]byte, len(magic))
	if _, err := io.ReadFull(r, got); err != nil {
		return h, err
	}
	if got[0] == tlsHandshake && got[1] == tlsMajor {
		return h, errToken
	}
	if string(got) != magic {
		return h, fmt.Errorf("peer: not a limpet: it began with %q", got)
	}
	err = readJSON(r, &h)
	return h, err
}

// common refuses a caller that has no protocol in common with us.
func common(ours, theirs [2]int) *Refusal {
	if theirs[0] <= ours[1] && ours[0] <= theirs[1] {
		return nil
	}
	return &Refusal{OtherProtocol, fmt.Sprintf(
		"the caller speaks peer protocols %d to %d, this member %d to %d: upgrade the older of the two", theirs[0], theirs[1], ours[0], ours[1])}
}
