package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"google.golang.org/protobuf/encoding/protojson"
)

// jsonPerByte bounds the JSON of a message: bytes are written in base64, whose
// letters may each be escaped with six more.
const jsonPerByte = 8

// jsonForm reads and writes messages as etcd does, and reads none without end:
// gRPC's limit counts only once a message is whole.
type jsonForm struct {
	runtime.HTTPBodyMarshaler
	maxBytes int // of JSON for one message
}

func newJSON(maxBytes int) *jsonForm {
	return &jsonForm{
		// Names as etcd's .proto files have them, and no zero values.
		HTTPBodyMarshaler: runtime.HTTPBodyMarshaler{Marshaler: &runtime.JSONPb{
			MarshalOptions:   protojson.MarshalOptions{UseProtoNames: true},
			UnmarshalOptions: protojson.UnmarshalOptions{DiscardUnknown: true},
		}},
		maxBytes: maxBytes * jsonPerByte,
	}
}

// Marshal implements runtime.Marshaler. protobuf's JSON has spaces in one build of
// a program and none in the next; here there are never any, so that scripts which
// look for text find it.
func (f *jsonForm) Marshal(v any) ([]byte, error) {
	data, err := f.HTTPBodyMarshaler.Marshal(v)
	if err != nil {
		return nil, err
	}
	var plain bytes.Buffer
	if err := json.Compact(&plain, data); err != nil {
		return nil, err
	}
	return plain.Bytes(), nil
}

// NewDecoder implements runtime.Marshaler.
func (f *jsonForm) NewDecoder(r io.Reader) runtime.Decoder {
	in := &bounded{r: r, max: f.maxBytes}
	d := f.HTTPBodyMarshaler.NewDecoder(in)
	return runtime.DecoderFunc(func(v any) error {
		in.used = 0
		err := d.Decode(v)
		if b, ok := r.(*body); ok && b.lasting && err != nil && !errors.Is(err, io.EOF) {
			// As in etcd, what was asked before goes on, and nobody reads any more: the
			// client would go away unnoticed.
			_, _ = io.Copy(io.Discard, r)
		}
		return err
	})
}

var errEndless = errors.New("the request goes on after what it asks")

// bounded reads up to max bytes of each message.
type bounded struct {
	r         io.Reader
	used, max int
}

// Read implements io.Reader.
func (b *bounded) Read(p []byte) (int, error) {
	if b.used >= b.max {
		return 0, fmt.Errorf("the request is larger than %d bytes of JSON; send less at a time", b.max)
	}
	n, err := b.r.Read(p[:min(len(p), b.max-b.used)])
	b.used += n
	return n, err
}

// body is a request's. A message that is whole is not done if what follows it is
// no HTTP: grpc-gateway, and with it etcd, would not mind.
type body struct {
	io.ReadCloser
	cancel  context.CancelFunc
	lasting bool   // it may go on after the first message
	left    int    // bytes that may still come, unless it is lasting
	ended   func() // hears that all has been read; may be nil
}

// Read implements io.Reader.
func (b *body) Read(p []byte) (int, error) {
	if !b.lasting {
		if b.left <= 0 {
			b.cancel()
			return 0, errEndless
		}
		p = p[:min(len(p), b.left)]
	}
	n, err := b.ReadCloser.Read(p)
	b.left -= n
	switch {
	case errors.Is(err, io.EOF):
		if b.ended != nil {
			b.ended()
		}
	case err != nil:
		b.cancel()
	}
	return n, err
}
