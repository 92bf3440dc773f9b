package side

import (
	"fmt"
	"strings"
	"sync"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// Neutral names of the identities that each server chooses for itself.
const (
	NeutralCluster = uint64(0x7C00_0000_0000_0001)
	NeutralMember  = uint64(0x7B00_0000_0000_0001)
	neutralLease   = uint64(0x7A00_0000_0000_0000) // + n for the n-th lease whose ID the server chose
)

// Names translates between the neutral names that steps use and one server's real ones. The real
// ones are 60-bit hashes or random numbers, so that replacing equal numbers anywhere in a message
// meets no bystander.
type Names struct {
	mu      sync.Mutex // guards the fields below
	real    map[uint64]uint64
	neutral map[uint64]uint64
	texts   []string // real, neutral, real, neutral, …
	back    []string // neutral, real, …: of BindText alone
}

// NewNames gives a dictionary without names. It knows one thing only: protobuf writes errors and
// messages with one of two kinds of space, chosen by the hash of the binary, so that nobody depends
// on them. All become the plain one.
func NewNames() *Names {
	return &Names{real: map[uint64]uint64{}, neutral: map[uint64]uint64{}, texts: []string{"\u00a0", " ", "  ", " "}}
}

// Bind makes real and neutral each other's translation; numbers inside texts are translated too.
func (n *Names) Bind(neutral, real uint64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.real[neutral], n.neutral[real] = real, neutral
	n.texts = append(n.texts, fmt.Sprint(real), fmt.Sprint(neutral), fmt.Sprintf("%x", real), fmt.Sprintf("%x", neutral))
}

// BindText replaces real by neutral in every text that comes back, and neutral by real in those
// that are sent.
func (n *Names) BindText(neutral, real string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.texts = append(n.texts, real, neutral)
	n.back = append(n.back, neutral, real)
}

// ToReal gives a copy of m as this server must hear it.
func (n *Names) ToReal(m proto.Message) proto.Message {
	n.mu.Lock()
	defer n.mu.Unlock()
	m = proto.Clone(m)
	rename(m.ProtoReflect(), n.real, strings.NewReplacer(n.back...))
	return m
}

// RealText translates a text that is sent: the addresses in it, not the numbers.
func (n *Names) RealText(neutral string) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return strings.NewReplacer(n.back...).Replace(neutral)
}

// RealID translates one number.
func (n *Names) RealID(neutral uint64) uint64 {
	n.mu.Lock()
	defer n.mu.Unlock()
	if real, ok := n.real[neutral]; ok {
		return real
	}
	return neutral
}

// ToNeutral translates m in place.
func (n *Names) ToNeutral(m proto.Message) {
	n.mu.Lock()
	defer n.mu.Unlock()
	rename(m.ProtoReflect(), n.neutral, strings.NewReplacer(n.texts...))
}

// Text translates a text.
func (n *Names) Text(text string) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return strings.NewReplacer(n.texts...).Replace(text)
}

func rename(m protoreflect.Message, ids map[uint64]uint64, texts *strings.Replacer) {
	m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		if fd.IsMap() {
			return true // only the health service's list has one, of no names
		}
		if !fd.IsList() {
			if nv, changed := renameValue(fd, v, ids, texts); changed {
				m.Set(fd, nv)
			}
			return true
		}
		list := v.List()
		for i := range list.Len() {
			if nv, changed := renameValue(fd, list.Get(i), ids, texts); changed {
				list.Set(i, nv)
			}
		}
		return true
	})
}

func renameValue(fd protoreflect.FieldDescriptor, v protoreflect.Value, ids map[uint64]uint64, texts *strings.Replacer) (protoreflect.Value, bool) {
	switch fd.Kind() {
	case protoreflect.MessageKind:
		rename(v.Message(), ids, texts)
	case protoreflect.Int64Kind:
		if id, ok := ids[uint64(v.Int())]; ok {
			return protoreflect.ValueOfInt64(int64(id)), true
		}
	case protoreflect.Uint64Kind:
		if id, ok := ids[v.Uint()]; ok {
			return protoreflect.ValueOfUint64(id), true
		}
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(texts.Replace(v.String())), true
	}
	return v, false
}
