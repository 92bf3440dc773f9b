package side

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
)

// Answer is what one step brought back from one server, in neutral names.
type Answer struct {
	Messages []proto.Message
	Fields   map[string]string // of answers that are not messages: HTTP status, headers, body
	Code     codes.Code
	Text     string   // the error's message
	Broken   []string // promises this server broke by itself, whatever the other one did
}

// fail records err as the answer's outcome.
func (a *Answer) fail(n *Names, err error) {
	s, _ := status.FromError(err)
	a.Code, a.Text = s.Code(), n.Text(s.Message())
}

// set notes a field of an answer that is not a message; empty ones are left out.
func (a *Answer) set(name, value string) {
	if value == "" {
		return
	}
	if a.Fields == nil {
		a.Fields = map[string]string{}
	}
	a.Fields[name] = value
}

func (a *Answer) broke(format string, args ...any) {
	a.Broken = append(a.Broken, fmt.Sprintf(format, args...))
}

// maxShown messages of an answer are printed.
const maxShown = 4

// String shows the answer with long values cut.
func (a Answer) String() string {
	var parts []string
	if a.Code != codes.OK {
		parts = append(parts, fmt.Sprintf("%v %q", a.Code, a.Text))
	}
	for _, name := range slices.Sorted(maps.Keys(a.Fields)) {
		parts = append(parts, fmt.Sprintf("%s: %q", name, cut(a.Fields[name], shortText)))
	}
	for i, m := range a.Messages {
		if i == maxShown {
			parts = append(parts, fmt.Sprintf("… and %d more messages", len(a.Messages)-i))
			break
		}
		parts = append(parts, Short(m))
	}
	for _, b := range a.Broken {
		parts = append(parts, "BROKEN: "+b)
	}
	if len(parts) == 0 {
		return "(nothing)"
	}
	return strings.Join(parts, "\n    ")
}

const shortText = 700

// Short prints a message on one line, cut in the middle if it is long.
func Short(m proto.Message) string {
	text := fmt.Sprintf("%s{%s}", m.ProtoReflect().Descriptor().Name(), prototext.MarshalOptions{}.Format(m))
	return cut(text, shortText)
}

func cut(text string, limit int) string {
	if len(text) <= limit {
		return text
	}
	half := limit / 2
	return fmt.Sprintf("%s …(%d bytes)… %s", text[:half], len(text)-2*half, text[len(text)-half:])
}
