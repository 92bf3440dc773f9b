package kubeobject

import (
	"fmt"
	"testing"
	"time"

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

func TestRead(t *testing.T) {
	anna := Write{APIVersion: "v1", Kind: "ConfigMap", Manager: "anna", Operation: "Apply", Time: time.Unix(20, 0).UTC()}
	status := anna
	status.Manager, status.Operation, status.Subresource = "kubelet", "Update", "status"
	for name, c := range map[string]struct {
		value []byte
		want  Write
		ok    bool
	}{
		"protobuf":           {stored(managed("bert", "Update", "", 10), managed("anna", "Apply", "", 20), managed("carl", "Update", "", 5)), anna, true},
		"a subresource":      {stored(managed("anna", "Apply", "", 20), managed("kubelet", "Update", "status", 20)), status, true},
		"no managed fields":  {stored(), Write{APIVersion: "v1", Kind: "ConfigMap"}, true},
		"no time":            {stored(field(17, field(1, []byte("x")))), Write{APIVersion: "v1", Kind: "ConfigMap", Manager: "x"}, true},
		"JSON":               {[]byte(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a","managedFields":[{"manager":"bert","operation":"Update","time":"1970-01-01T00:00:10Z"},{"manager":"anna","operation":"Apply","time":"1970-01-01T00:00:20Z","fieldsV1":{}}]},"spec":{"x":[1]}}` + "\n"), anna, true},
		"JSON of others":     {[]byte(`{"kind":"x"}`), Write{}, false},
		"JSON that is none":  {[]byte(`{"apiVersion":"v1","kind":"ConfigMap"`), Write{}, false},
		"encrypted":          {[]byte("k8s:enc:aescbc:v1:key1:\x01\x02:"), Write{Encrypted: "aescbc"}, true},
		"encrypted, cut":     {[]byte("k8s:enc:"), Write{}, false},
		"empty":              {nil, Write{}, false},
		"a prefix":           {[]byte("k8s\x00"), Write{}, false},
		"text":               {[]byte("hello"), Write{}, false},
		"protobuf that ends": {stored(managed("anna", "Apply", "", 20))[:30], Write{APIVersion: "v1", Kind: "ConfigMap"}, false},
	} {
		got, ok := Read(c.value)
		if ok != c.ok || ok && got != c.want {
			t.Errorf("%s: got %+v, %v, want %+v, %v", name, got, ok, c.want, c.ok)
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
		if w, ok := Read(value); ok && w.Kind == "" && w.Encrypted == "" {
			t.Errorf("%q is an object of no kind", value)
		}
	})
}
