// Package kubeobject answers: who wrote this object of Kubernetes?
//
// It reads what a kube-apiserver stores in a value, as protobuf or as JSON, as far
// as the answer needs; the rest is passed over and never believed. It is pure.
package kubeobject

import (
	"bytes"
	"encoding/json"
	"hash/fnv"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
)

// Object is what is known of an object. All but Encrypted are the words of whoever
// wrote it, and may be anything.
type Object struct {
	APIVersion string
	Kind       string
	// Encrypted is the provider with which the value is encrypted, such as aescbc:
	// then nothing else is known.
	Encrypted string
	entries   []Entry
}

// Entry is one of an object's managedFields: who wrote some of its fields.
type Entry struct {
	Manager     string    `json:"manager"`
	Operation   string    `json:"operation"`   // Apply or Update
	Subresource string    `json:"subresource"` // such as status; empty: the object itself
	Time        time.Time `json:"time"`
	sum         uint64    // of all of it, the fields included
}

// Writer is who wrote the object, when before is the version that it replaced; nil:
// that is not known. It is the newest of the entries that before did not have, or
// of all. Times are whole seconds: without before, of two writers in one second the
// later in the list counts, which is as good as any. False if nobody is named.
func (o *Object) Writer(before *Object) (Entry, bool) {
	if before != nil {
		old := func(e Entry) bool {
			return slices.ContainsFunc(before.entries, func(b Entry) bool { return b.sum == e.sum })
		}
		if e, ok := newest(slices.DeleteFunc(slices.Clone(o.entries), old)); ok {
			return e, true
		}
	}
	return newest(o.entries)
}

func newest(entries []Entry) (out Entry, ok bool) {
	for _, e := range entries {
		if e.Manager != "" && !e.Time.Before(out.Time) {
			out, ok = e, true
		}
	}
	return out, ok
}

const (
	protobufPrefix  = "k8s\x00"
	encryptedPrefix = "k8s:enc:"
)

// Read reads the object in value; nil if it is none.
func Read(value []byte) *Object {
	switch {
	case bytes.HasPrefix(value, []byte(encryptedPrefix)):
		provider, _, _ := strings.Cut(string(value[len(encryptedPrefix):min(len(value), len(encryptedPrefix)+64)]), ":")
		if provider == "" {
			return nil
		}
		return &Object{Encrypted: provider}
	case bytes.HasPrefix(value, []byte(protobufPrefix)):
		return readProtobuf(value[len(protobufPrefix):])
	case bytes.HasPrefix(bytes.TrimLeft(value, " \t\r\n"), []byte("{")):
		return readJSON(value)
	}
	return nil
}

// Numbers of fields, as k8s.io/apimachinery has them in generated.proto of
// pkg/runtime and of pkg/apis/meta/v1. Every object has its metadata in field 1.
const (
	unknownType = 1 // runtime.Unknown
	unknownRaw  = 2

	typeAPIVersion = 1 // runtime.TypeMeta
	typeKind       = 2

	objectMeta = 1

	metaManagedFields = 17 // ObjectMeta

	entryManager     = 1 // ManagedFieldsEntry
	entryOperation   = 2
	entryTime        = 4
	entrySubresource = 8

	timeSeconds = 1 // Time
	timeNanos   = 2
)

// fields calls message for each field of msg that has bytes, and number for each
// that is a varint; either may be nil. False if msg is no message of protobuf.
func fields(msg []byte, message func(n protowire.Number, b []byte), number func(n protowire.Number, v uint64)) bool {
	for len(msg) > 0 {
		n, kind, size := protowire.ConsumeTag(msg)
		if size < 0 {
			return false
		}
		msg = msg[size:]
		switch {
		case kind == protowire.BytesType:
			var b []byte
			if b, size = protowire.ConsumeBytes(msg); size >= 0 && message != nil {
				message(n, b)
			}
		case kind == protowire.VarintType:
			var v uint64
			if v, size = protowire.ConsumeVarint(msg); size >= 0 && number != nil {
				number(n, v)
			}
		default:
			size = protowire.ConsumeFieldValue(n, kind, msg)
		}
		if size < 0 {
			return false
		}
		msg = msg[size:]
	}
	return true
}

func readProtobuf(unknown []byte) *Object {
	o := new(Object)
	var object []byte
	whole := fields(unknown, func(n protowire.Number, b []byte) {
		switch n {
		case unknownType:
			fields(b, func(n protowire.Number, b []byte) {
				switch n {
				case typeAPIVersion:
					o.APIVersion = string(b)
				case typeKind:
					o.Kind = string(b)
				}
			}, nil)
		case unknownRaw:
			object = b
		}
	}, nil)
	if !whole || o.Kind == "" {
		return nil
	}
	fields(object, func(n protowire.Number, b []byte) {
		if n != objectMeta {
			return
		}
		fields(b, func(n protowire.Number, b []byte) {
			if n == metaManagedFields {
				o.entries = append(o.entries, readEntry(b))
			}
		}, nil)
	}, nil)
	return o
}

func readEntry(b []byte) Entry {
	e := Entry{sum: sum(b)}
	fields(b, func(n protowire.Number, b []byte) {
		switch n {
		case entryManager:
			e.Manager = string(b)
		case entryOperation:
			e.Operation = string(b)
		case entrySubresource:
			e.Subresource = string(b)
		case entryTime:
			e.Time = readTime(b)
		}
	}, nil)
	return e
}

func readTime(b []byte) time.Time {
	var seconds, nanos int64
	fields(b, nil, func(n protowire.Number, v uint64) {
		switch n {
		case timeSeconds:
			seconds = int64(v)
		case timeNanos:
			nanos = int64(int32(v))
		}
	})
	return time.Unix(seconds, nanos).UTC()
}

func sum(b []byte) uint64 {
	h := fnv.New64a()
	_, _ = h.Write(b) // cannot fail
	return h.Sum64()
}

func readJSON(value []byte) *Object {
	var object struct {
		APIVersion string `json:"apiVersion"`
		Kind       string `json:"kind"`
		Metadata   struct {
			ManagedFields []json.RawMessage `json:"managedFields"`
		} `json:"metadata"`
	}
	if json.Unmarshal(value, &object) != nil || object.APIVersion == "" || object.Kind == "" {
		return nil
	}
	o := &Object{APIVersion: object.APIVersion, Kind: object.Kind}
	for _, raw := range object.Metadata.ManagedFields {
		e := Entry{sum: sum(raw)}
		if json.Unmarshal(raw, &e) == nil {
			o.entries = append(o.entries, e)
		}
	}
	return o
}
