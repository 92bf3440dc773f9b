package side

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
)

// Step is one thing done to a server. Run may be called for both targets at once.
type Step interface {
	Run(ctx context.Context, t *Target) Answer
	String() string
}

// Call is a unary request.
type Call struct {
	Method   string // "/etcdserverpb.KV/Put"
	Request  proto.Message
	Metadata map[string]string // tokens in neutral names
	// Binds, if not 0, is the neutral name for the lease ID the server chooses.
	Binds uint64
}

var _ = healthpb.File_grpc_health_v1_health_proto // registers the health service's types

// Run sends the request.
func (c Call) Run(ctx context.Context, t *Target) Answer {
	var a Answer
	resp, err := newResponse(c.Method)
	if err != nil {
		a.broke("%v", err)
		return a
	}
	for name, value := range c.Metadata {
		ctx = metadata.AppendToOutgoingContext(ctx, name, t.Names.RealText(value))
	}
	request := t.Names.ToReal(c.Request)
	if err := t.Conn.Invoke(ctx, c.Method, request, resp); err != nil {
		a.fail(t.Names, err)
		// "… larger than max (size vs. limit)": real names may be longer than neutral ones.
		a.Text = strings.Replace(a.Text, fmt.Sprintf("(%d vs", proto.Size(request)), fmt.Sprintf("(%d vs", proto.Size(c.Request)), 1)
		return a
	}
	if grant, ok := resp.(*pb.LeaseGrantResponse); ok && c.Binds != 0 {
		if grant.ID <= 0 {
			a.broke("chosen lease ID %d is not positive", grant.ID)
		}
		t.Names.Bind(c.Binds, uint64(grant.ID))
	}
	t.Names.ToNeutral(resp)
	a.Messages = []proto.Message{resp}
	return a
}

func (c Call) String() string {
	text := c.Method + " " + Short(c.Request)
	if len(c.Metadata) > 0 {
		text += fmt.Sprintf(" metadata %v", c.Metadata)
	}
	return text
}

func newResponse(method string) (proto.Message, error) {
	name := protoreflect.FullName(bytes.ReplaceAll([]byte(method[1:]), []byte("/"), []byte(".")))
	d, err := protoregistry.GlobalFiles.FindDescriptorByName(name)
	if err != nil {
		return nil, fmt.Errorf("method %s: %w", method, err)
	}
	out := d.(protoreflect.MethodDescriptor).Output().FullName()
	typ, err := protoregistry.GlobalTypes.FindMessageByName(out)
	if err != nil {
		return nil, fmt.Errorf("response of %s: %w", method, err)
	}
	return typ.New().Interface(), nil
}

// RawCall is a unary request whose bytes need not be a message of the right kind.
type RawCall struct {
	Method string
	Bytes  []byte
}

// Run sends the bytes.
func (c RawCall) Run(ctx context.Context, t *Target) Answer {
	var a Answer
	var reply []byte
	if err := t.Conn.Invoke(ctx, c.Method, c.Bytes, &reply, grpc.ForceCodec(rawCodec{})); err != nil {
		a.fail(t.Names, err)
		return a
	}
	resp, err := newResponse(c.Method)
	if err != nil {
		a.broke("%v", err)
		return a
	}
	if err := proto.Unmarshal(reply, resp); err != nil {
		a.broke("answer does not decode: %v", err)
		return a
	}
	t.Names.ToNeutral(resp)
	a.Messages = []proto.Message{resp}
	return a
}

func (c RawCall) String() string {
	return cut(fmt.Sprintf("%s bytes %x", c.Method, c.Bytes), shortText)
}

// rawCodec passes bytes through under the name of the usual codec.
type rawCodec struct{}

func (rawCodec) Marshal(v any) ([]byte, error)      { return v.([]byte), nil }
func (rawCodec) Unmarshal(data []byte, v any) error { *v.(*[]byte) = bytes.Clone(data); return nil }
func (rawCodec) Name() string                       { return "proto" }

// Stream is a RangeStream request; its answer is the concatenation of all chunks.
type Stream struct{ Request *pb.RangeRequest }

// Run reads the stream to its end.
func (s Stream) Run(ctx context.Context, t *Target) Answer {
	var a Answer
	stream, err := pb.NewKVClient(t.Conn).RangeStream(ctx, t.Names.ToReal(s.Request).(*pb.RangeRequest))
	if err != nil {
		a.fail(t.Names, err)
		return a
	}
	whole := &pb.RangeResponse{}
	for {
		chunk, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			a.fail(t.Names, err)
			return a
		}
		if whole.Header != nil {
			a.broke("a chunk follows the one with the header")
		}
		proto.Merge(whole, chunk.RangeResponse)
	}
	t.Names.ToNeutral(whole)
	a.Messages = []proto.Message{whole}
	return a
}

func (s Stream) String() string { return "RangeStream " + Short(s.Request) }

// KeepAlive renews leases one after the other on one stream, then half-closes it.
type KeepAlive struct{ IDs []int64 }

// Run collects one answer for each ID, and the end of the stream.
func (k KeepAlive) Run(ctx context.Context, t *Target) Answer {
	var a Answer
	stream, err := pb.NewLeaseClient(t.Conn).LeaseKeepAlive(ctx)
	if err != nil {
		a.fail(t.Names, err)
		return a
	}
	for _, id := range k.IDs {
		if err := stream.Send(&pb.LeaseKeepAliveRequest{ID: int64(t.Names.RealID(uint64(id)))}); err != nil && !errors.Is(err, io.EOF) {
			a.fail(t.Names, err)
			return a
		}
	}
	if err := stream.CloseSend(); err != nil {
		a.fail(t.Names, err)
		return a
	}
	for {
		resp, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return a
		}
		if err != nil {
			a.fail(t.Names, err)
			return a
		}
		t.Names.ToNeutral(resp)
		a.Messages = append(a.Messages, resp)
	}
}

func (k KeepAlive) String() string { return fmt.Sprintf("LeaseKeepAlive %d, half-close", k.IDs) }

// Snapshot reads a whole snapshot and checks its shape; the two databases are not alike.
type Snapshot struct{}

// Run reads the stream. The answer has one empty message with the version that all chunks named.
func (Snapshot) Run(ctx context.Context, t *Target) Answer {
	var a Answer
	stream, err := pb.NewMaintenanceClient(t.Conn).Snapshot(ctx, &pb.SnapshotRequest{})
	if err != nil {
		a.fail(t.Names, err)
		return a
	}
	sum, size, version := sha256.New(), 0, ""
	var last, before *pb.SnapshotResponse
	for {
		chunk, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			a.fail(t.Names, err)
			return a
		}
		if last != nil {
			sum.Write(last.Blob)
			size += len(last.Blob)
			if want := last.RemainingBytes; before != nil && before.RemainingBytes-uint64(len(last.Blob)) != want {
				a.broke("remaining_bytes fell from %d to %d over a blob of %d", before.RemainingBytes, want, len(last.Blob))
			}
		}
		before, last = last, chunk
		version = chunk.Version
		if len(chunk.Blob) > 32<<10 {
			a.broke("a blob of %d bytes, above 32 KiB", len(chunk.Blob))
		}
	}
	switch {
	case last == nil || before == nil:
		a.broke("fewer than two messages")
	case !bytes.Equal(last.Blob, sum.Sum(nil)):
		a.broke("the last message is not the SHA-256 of those before")
	case size%512 != 0:
		a.broke("the database has %d bytes, not a multiple of 512", size)
	case before.RemainingBytes != 0 || last.RemainingBytes != 0:
		a.broke("remaining_bytes ends at %d and %d, not 0", before.RemainingBytes, last.RemainingBytes)
	}
	a.Messages = []proto.Message{&pb.SnapshotResponse{Version: version}}
	return a
}

func (Snapshot) String() string { return "Snapshot" }
