// Package kubeobject answers: who wrote this object of Kubernetes?
//
// It reads what a kube-apiserver stores in a value, as protobuf or as JSON, as far
// as the answer needs; the rest is passed over and never believed. It is pure.
package kubeobject

import (
	"bytes"
	"encoding/json"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
)

// Write is who last wrote an object, by the newest entry of its managedFields. All
// but Encrypted are the words of whoever wrote it, and may be anything.
type Write struct {
	APIVersion  string
	Kind        string
	Manager     string // empty: the object has no managedFields
	Operation   string // Apply or Update
	Subresource string // such as status; empty: the object itself
	Time        time.Time
	// Encrypted is the provider with which the value is encrypted, such as aescbc:
	// then nothing else is known.
	Encrypted string
}

const (
	protobufPrefix  = "k8s\x00"
	encryptedPrefix = "k8s:enc:"
)

// Read tells who wrote the object in value; false if it is no object.
func Read(value []byte) (Write, bool) {
	switch {
	case bytes.HasPrefix(value, []byte(encryptedPrefix)):
		provider, _, _ := strings.Cut(string(value[len(encryptedPrefix):min(len(value), len(encryptedPrefix)+64)]), ":")
		return Write{Encrypted: provider}, provider != ""
	case bytes.HasPrefix(value, []byte(protobufPrefix)):
		return readProtobuf(value[len(protobufPrefix):])
	case bytes.HasPrefix(bytes.TrimLeft(value, " \t\r\n"), []byte("{")):
		return readJSON(value)
	}
	return Write{}, false
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

func readProtobuf(unknown []byte) (w Write, ok bool) {
	var object []byte
	whole := fields(unknown, func(n protowire.Number, b []byte) {
		switch n {
		case unknownType:
			fields(b, func(n protowire.Number, b []byte) {
				switch n {
				case typeAPIVersion:
					w.APIVersion = string(b)
				case typeKind:
					w.Kind = string(b)
				}
			}, nil)
		case unknownRaw:
			object = b
		}
	}, nil)
	fields(object, func(n protowire.Number, b []byte) {
		if n != objectMeta {
			return
		}
		fields(b, func(n protowire.Number, b []byte) {
			if n == metaManagedFields {
				w.newest(readEntry(b))
			}
		}, nil)
	}, nil)
	return w, whole && w.Kind != ""
}

type entry struct {
	Manager     string    `json:"manager"`
	Operation   string    `json:"operation"`
	Subresource string    `json:"subresource"`
	Time        time.Time `json:"time"`
}

func readEntry(b []byte) (e entry) {
	fields(b, func(n protowire.Number, b []byte) {
		switch n {
		case entryManager:
			e.Manager = string(b)
		case entryOperation:
			e.Operation = string(b)
		case entrySubresource:
			e.Subresource = string(b)
		case entryTime:
			var seconds, nanos int64
			fields(b, nil, func(n protowire.Number, v uint64) {
				switch n {
				case timeSeconds:
					seconds = int64(v)
				case timeNanos:
					nanos = int64(int32(v))
				}
			})
			e.Time = time.Unix(seconds, nanos).UTC()
		}
	}, nil)
	return e
}

// newest takes e over unless what is known is newer. Times are whole seconds; of
// two in one second the later entry counts.
func (w *Write) newest(e entry) {
	if e.Manager != "" && !e.Time.Before(w.Time) {
		w.Manager, w.Operation, w.Subresource, w.Time = e.Manager, e.Operation, e.Subresource, e.Time
	}
}

func readJSON(value []byte) (w Write, ok bool) {
	var object struct {
		APIVersion string `json:"apiVersion"`
		Kind       string `json:"kind"`
		Metadata   struct {
			ManagedFields []entry `json:"managedFields"`
		} `json:"metadata"`
	}
	if json.Unmarshal(value, &object) != nil || object.APIVersion == "" || object.Kind == "" {
		return Write{}, false
	}
	w.APIVersion, w.Kind = object.APIVersion, object.Kind
	for _, e := range object.Metadata.ManagedFields {
		w.newest(e)
	}
	return w, true
}
