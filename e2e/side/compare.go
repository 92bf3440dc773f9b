package side

import (
	"bytes"
	"fmt"
	"maps"
	"slices"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// Difference is one place where two answers part.
type Difference struct {
	Path      string
	Want, Got string
}

func (d Difference) String() string {
	return fmt.Sprintf("%s: want %s, got %s", d.Path, cut(d.Want, 300), cut(d.Got, 300))
}

// Comparer compares answers under a list of rules.
type Comparer struct {
	rules map[protoreflect.FullName]Rule
}

// NewComparer makes a Comparer that knows Allowed and extra.
func NewComparer(extra ...Rule) *Comparer {
	c := &Comparer{rules: map[protoreflect.FullName]Rule{}}
	for _, r := range slices.Concat(Allowed, extra) {
		c.rules[r.Field] = r
	}
	return c
}

// Answers lists where got departs from want; promises broken by either side count too.
func (c *Comparer) Answers(want, got Answer) []Difference {
	var ds []Difference
	for _, b := range want.Broken {
		ds = append(ds, Difference{"promise (reference)", "kept", b})
	}
	for _, b := range got.Broken {
		ds = append(ds, Difference{"promise", "kept", b})
	}
	if want.Code != got.Code {
		ds = append(ds, Difference{"code", want.Code.String(), got.Code.String()})
	}
	if libraryTexts.Replace(want.Text) != libraryTexts.Replace(got.Text) {
		ds = append(ds, Difference{"error text", want.Text, got.Text})
	}
	ds = append(ds, fields(want.Fields, got.Fields)...)
	if len(want.Messages) != len(got.Messages) {
		ds = append(ds, Difference{"messages", fmt.Sprint(len(want.Messages)), fmt.Sprint(len(got.Messages))})
	}
	for i := range min(len(want.Messages), len(got.Messages)) {
		for _, d := range c.Messages(want.Messages[i], got.Messages[i]) {
			if len(want.Messages) > 1 {
				d.Path = fmt.Sprintf("message %d: %s", i, d.Path)
			}
			ds = append(ds, d)
		}
	}
	return ds
}

func fields(want, got map[string]string) []Difference {
	both := maps.Clone(want)
	if both == nil {
		both = map[string]string{}
	}
	maps.Copy(both, got)
	var ds []Difference
	for _, name := range slices.Sorted(maps.Keys(both)) {
		if libraryTexts.Replace(want[name]) != libraryTexts.Replace(got[name]) {
			ds = append(ds, Difference{name, fmt.Sprintf("%q", want[name]), fmt.Sprintf("%q", got[name])})
		}
	}
	return ds
}

// Messages lists where got departs from want.
func (c *Comparer) Messages(want, got proto.Message) []Difference {
	w, g := want.ProtoReflect(), got.ProtoReflect()
	if w.Descriptor() != g.Descriptor() {
		return []Difference{{"message", string(w.Descriptor().Name()), string(g.Descriptor().Name())}}
	}
	return c.message(string(w.Descriptor().Name()), w, g)
}

func (c *Comparer) message(path string, want, got protoreflect.Message) []Difference {
	var ds []Difference
	fields := want.Descriptor().Fields()
	for i := range fields.Len() {
		fd := fields.Get(i)
		ds = append(ds, c.field(path+"."+string(fd.Name()), fd, want, got)...)
	}
	if !bytes.Equal(want.GetUnknown(), got.GetUnknown()) {
		ds = append(ds, Difference{path + " (unknown fields)", fmt.Sprintf("%x", want.GetUnknown()), fmt.Sprintf("%x", got.GetUnknown())})
	}
	return ds
}

func (c *Comparer) field(path string, fd protoreflect.FieldDescriptor, want, got protoreflect.Message) []Difference {
	rule, ruled := c.rules[fd.FullName()]
	switch {
	case fd.IsList():
		return c.list(path, fd, want.Get(fd).List(), got.Get(fd).List(), ruled)
	case ruled:
		if !rule.Same(want.Get(fd), got.Get(fd)) {
			return []Difference{{path, want.Get(fd).String(), got.Get(fd).String()}}
		}
		return nil
	case want.Has(fd) != got.Has(fd):
		return []Difference{{path, show(fd, want), show(fd, got)}}
	case !want.Has(fd):
		return nil
	}
	return c.value(path, fd, want.Get(fd), got.Get(fd))
}

func (c *Comparer) value(path string, fd protoreflect.FieldDescriptor, want, got protoreflect.Value) []Difference {
	if fd.Kind() == protoreflect.MessageKind {
		return c.message(path, want.Message(), got.Message())
	}
	if !want.Equal(got) {
		return []Difference{{path, quote(fd, want), quote(fd, got)}}
	}
	return nil
}

func (c *Comparer) list(path string, fd protoreflect.FieldDescriptor, want, got protoreflect.List, asSet bool) []Difference {
	ws, gs := elements(want), elements(got)
	if asSet {
		sortElements(fd, ws)
		sortElements(fd, gs)
	}
	var ds []Difference
	if len(ws) != len(gs) {
		ds = append(ds, Difference{path + " (length)", fmt.Sprint(len(ws)), fmt.Sprint(len(gs))})
	}
	for i := range min(len(ws), len(gs)) {
		ds = append(ds, c.value(fmt.Sprintf("%s[%d]", path, i), fd, ws[i], gs[i])...)
	}
	return ds
}

func elements(l protoreflect.List) []protoreflect.Value {
	vs := make([]protoreflect.Value, l.Len())
	for i := range vs {
		vs[i] = l.Get(i)
	}
	return vs
}

func sortElements(fd protoreflect.FieldDescriptor, vs []protoreflect.Value) {
	key := func(v protoreflect.Value) string {
		if fd.Kind() != protoreflect.MessageKind {
			return v.String()
		}
		b, err := proto.MarshalOptions{Deterministic: true}.Marshal(v.Message().Interface())
		if err != nil {
			panic(err) // an answer that was decoded a moment ago
		}
		return string(b)
	}
	slices.SortFunc(vs, func(a, b protoreflect.Value) int { return bytes.Compare([]byte(key(a)), []byte(key(b))) })
}

func show(fd protoreflect.FieldDescriptor, m protoreflect.Message) string {
	if !m.Has(fd) {
		return "(unset)"
	}
	return quote(fd, m.Get(fd))
}

func quote(fd protoreflect.FieldDescriptor, v protoreflect.Value) string {
	switch fd.Kind() {
	case protoreflect.MessageKind:
		return Short(v.Message().Interface())
	case protoreflect.BytesKind:
		return cut(fmt.Sprintf("%q", v.Bytes()), 200)
	case protoreflect.StringKind:
		return fmt.Sprintf("%q", v.String())
	}
	return v.String()
}
