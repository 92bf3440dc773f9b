package server

import (
	"testing"

	reflectv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
)

// Whoever asks what is served gets descriptions that are whole: a client can make
// calls of them.
func TestReflection(t *testing.T) {
	m := start(t, newConfig(t))
	// On a stream of its own: what was sent before on one is not sent again.
	ask := func(r *reflectv1.ServerReflectionRequest) *reflectv1.ServerReflectionResponse {
		t.Helper()
		stream, err := reflectv1.NewServerReflectionClient(m.conn).ServerReflectionInfo(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if err := stream.Send(r); err != nil {
			t.Fatal(err)
		}
		resp, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		return resp
	}
	list := ask(&reflectv1.ServerReflectionRequest{MessageRequest: &reflectv1.ServerReflectionRequest_ListServices{}})
	served := map[string]bool{}
	for _, s := range list.GetListServicesResponse().GetService() {
		served[s.Name] = true
		set := new(descriptorpb.FileDescriptorSet)
		resp := ask(&reflectv1.ServerReflectionRequest{MessageRequest: &reflectv1.ServerReflectionRequest_FileContainingSymbol{FileContainingSymbol: s.Name}})
		for _, data := range resp.GetFileDescriptorResponse().GetFileDescriptorProto() {
			f := new(descriptorpb.FileDescriptorProto)
			if err := proto.Unmarshal(data, f); err != nil {
				t.Fatal(err)
			}
			set.File = append(set.File, f)
		}
		files, err := protodesc.NewFiles(set)
		if err != nil {
			t.Errorf("%s: %v", s.Name, err)
			continue
		}
		if _, err := files.FindDescriptorByName(protoreflect.FullName(s.Name)); err != nil {
			t.Errorf("%s: %v", s.Name, err)
		}
	}
	for _, name := range []string{"etcdserverpb.KV", "v3lockpb.Lock", "v3electionpb.Election"} {
		if !served[name] {
			t.Errorf("%s is not in the list", name)
		}
	}
}
