package kubeobject

import (
	"fmt"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
)

func message(parts ...[]byte) (out []byte) {
	for _, p := range parts {
		out = append(out, p...)
	}
	return out
}

func field(n protowire.Number, b []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(nil, n, protowire.BytesType), b)
}

func number(n protowire.Number, v uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(nil, n, protowire.VarintType), v)
}

func managed(manager, operation, subresource string, seconds uint64) []byte {
	return field(17, message(field(1, []byte(manager)), field(2, []byte(operation)), field(3, []byte("v1")),
		field(4, message(number(1, seconds), number(2, 0))), field(6, []byte("FieldsV1")), field(7, field(1, []byte(`{"f:data":{}}`))), field(8, []byte(subresource))))
}

// stored is an object as a kube-apiserver stores it in protobuf; e2e/kube makes them
// with Kubernetes' own code.
func stored(entries ...[]byte) []byte {
	meta := message(append([][]byte{field(1, []byte("name")), number(7, 3)}, entries...)...)
	object := message(field(1, meta), field(2, []byte("spec")))
	return message([]byte("k8s\x00"), field(1, message(field(1, []byte("v1")), field(2, []byte("ConfigMap")))), field(2, object), field(3, nil), field(4, nil))
}

// said is what is known of a value, and who wrote it after before.
func said(value, before []byte) string {
	o := Read(value)
	if o == nil {
		return "none"
	}
	if o.Encrypted != "" {
		return "encrypted by " + o.Encrypted
	}
	var old *Object
	if before != nil {
		old = Read(before)
	}
	e, ok := o.Writer(old)
	if !ok {
		return o.APIVersion + " " + o.Kind
	}
	return strings.TrimSpace(fmt.Sprintf("%s %s: %s %s %d %s", o.APIVersion, o.Kind, e.Manager, e.Operation, e.Time.Unix(), e.Subresource))
}

func TestRead(t *testing.T) {
	anna := managed("anna", "Apply", "", 20)
	inJSON := `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a","managedFields":[%s]},"spec":{"x":[1]}}` + "\n"
	annaJSON := `{"manager":"anna","operation":"Apply","time":"1970-01-01T00:00:20Z","fieldsV1":{}}`
	for name, c := range map[string]struct {
		value, before []byte
		want          string
	}{
		"protobuf":          {stored(managed("bert", "Update", "", 10), anna, managed("carl", "Update", "", 5)), nil, "v1 ConfigMap: anna Apply 20"},
		"a subresource":     {stored(anna, managed("kubelet", "Update", "status", 20)), nil, "v1 ConfigMap: kubelet Update 20 status"},
		"no managed fields": {stored(), nil, "v1 ConfigMap"},
		"no time":           {stored(field(17, field(1, []byte("x")))), nil, "v1 ConfigMap: x  -62135596800"},
		"JSON":              {fmt.Appendf(nil, inJSON, `{"manager":"bert","operation":"Update","time":"1970-01-01T00:00:10Z"},`+annaJSON+`,{"manager":7}`), nil, "v1 ConfigMap: anna Apply 20"},
		"in the same second": {
			stored(managed("a controller", "Update", "status", 20), managed("kubectl", "Update", "", 20)), stored(managed("kubectl", "Update", "", 20)),
			"v1 ConfigMap: a controller Update 20 status",
		},
		"in the same second, JSON":  {fmt.Appendf(nil, inJSON, `{"manager":"new","operation":"Update","time":"1970-01-01T00:00:20Z"},`+annaJSON), fmt.Appendf(nil, inJSON, annaJSON), "v1 ConfigMap: new Update 20"},
		"takes fields from another": {stored(managed("bert", "Apply", "", 30), managed("anna", "Apply", "scale", 20)), stored(anna), "v1 ConfigMap: bert Apply 30"},
		"the same entries":          {stored(anna), stored(anna), "v1 ConfigMap: anna Apply 20"},
		"before it was none":        {stored(anna), []byte("x"), "v1 ConfigMap: anna Apply 20"},
		"JSON of others":            {[]byte(`{"kind":"x"}`), nil, "none"},
		"JSON that is none":         {[]byte(`{"apiVersion":"v1","kind":"ConfigMap"`), nil, "none"},
		"encrypted":                 {[]byte("k8s:enc:aescbc:v1:key1:\x01\x02:"), nil, "encrypted by aescbc"},
		"encrypted, cut":            {[]byte("k8s:enc:"), nil, "none"},
		"empty":                     {nil, nil, "none"},
		"a prefix":                  {[]byte("k8s\x00"), nil, "none"},
		"text":                      {[]byte("hello"), nil, "none"},
		"protobuf that ends":        {stored(anna)[:30], nil, "none"},
	} {
		if got := said(c.value, c.before); got != c.want {
			t.Errorf("%s: got %q, want %q", name, got, c.want)
		}
	}
}

// FuzzRead: any value is read without a panic, and in time.
func FuzzRead(f *testing.F) {
	f.Add(stored(managed("anna", "Apply", "", 20)))
	f.Add([]byte(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"managedFields":[{"time":"x"}]}}`))
	f.Add([]byte("k8s:enc:kms:v2:x"))
	f.Add([]byte(fmt.Sprint("k8s\x00", "\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f")))
	f.Fuzz(func(t *testing.T, value []byte) {
		o := Read(value)
		if o == nil {
			return
		}
		if o.Kind == "" && o.Encrypted == "" {
			t.Errorf("%q is an object of no kind", value)
		}
		o.Writer(nil)
		if e, ok := o.Writer(o); ok && e.Manager == "" {
			t.Errorf("%q was written by nobody", value)
		}
	})
}
