package side

import (
	"context"
	"errors"
	"fmt"
	"io"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
)

// Empty is a unary call of any method, with nothing set in the request.
type Empty struct {
	Method protoreflect.MethodDescriptor
}

// Run sends the request.
func (e Empty) Run(ctx context.Context, t *Target) Answer {
	request, err := newMessage(e.Method.Input())
	if err != nil {
		return Answer{Broken: []string{err.Error()}}
	}
	return Call{Method: path(e.Method), Request: request}.Run(ctx, t)
}

func (e Empty) String() string { return path(e.Method) }

// Open opens a stream of any method, sends one request with nothing set, half-closes and reads to
// the end: for streams that end.
type Open struct {
	Method   protoreflect.MethodDescriptor
	Metadata map[string]string
}

// Run collects the answers.
func (o Open) Run(ctx context.Context, t *Target) Answer {
	var a Answer
	request, err := newMessage(o.Method.Input())
	if err != nil {
		a.broke("%v", err)
		return a
	}
	if len(o.Metadata) > 0 {
		ctx = metadata.NewOutgoingContext(ctx, metadata.New(o.Metadata))
	}
	stream, err := t.Conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, path(o.Method))
	if err != nil {
		a.fail(t.Names, err)
		return a
	}
	// A server that refused already has Send fail with io.EOF; why, RecvMsg tells.
	if err := stream.SendMsg(request); err != nil && !errors.Is(err, io.EOF) {
		a.fail(t.Names, err)
		return a
	}
	if err := stream.CloseSend(); err != nil {
		a.fail(t.Names, err)
		return a
	}
	for {
		response, err := newMessage(o.Method.Output())
		if err != nil {
			a.broke("%v", err)
			return a
		}
		if err := stream.RecvMsg(response); errors.Is(err, io.EOF) {
			return a
		} else if err != nil {
			a.fail(t.Names, err)
			return a
		}
		t.Names.ToNeutral(response)
		a.Messages = append(a.Messages, response)
	}
}

func (o Open) String() string { return fmt.Sprintf("open %s metadata %v", path(o.Method), o.Metadata) }

func path(m protoreflect.MethodDescriptor) string {
	return fmt.Sprintf("/%s/%s", m.Parent().FullName(), m.Name())
}

func newMessage(d protoreflect.MessageDescriptor) (proto.Message, error) {
	typ, err := protoregistry.GlobalTypes.FindMessageByName(d.FullName())
	if err != nil {
		return nil, err
	}
	return typ.New().Interface(), nil
}
