package server

import (
	"path"
	"strings"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/reflection"
	reflectv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	reflectv1alpha "google.golang.org/grpc/reflection/grpc_reflection_v1alpha"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
)

// registerReflection has g tell what it serves, for grpcurl and its like.
func registerReflection(g *grpc.Server) {
	opts := reflection.ServerOptions{Services: g, DescriptorResolver: describedFiles{}}
	reflectv1.RegisterServerReflectionServer(g, reflection.NewServerV1(opts))
	reflectv1alpha.RegisterServerReflectionServer(g, reflection.NewServer(opts))
}

// describedFiles are the descriptions of all messages and services, with imports
// that lead somewhere: etcd's files import each other by paths, and know themselves
// by their last name only. They are made when somebody asks.
type describedFiles struct{}

var described = sync.OnceValue(func() protodesc.Resolver {
	set := new(descriptorpb.FileDescriptorSet)
	protoregistry.GlobalFiles.RangeFiles(func(f protoreflect.FileDescriptor) bool {
		d := protodesc.ToFileDescriptorProto(f)
		for i, dep := range d.Dependency {
			if strings.HasPrefix(dep, "etcd/api/") {
				d.Dependency[i] = path.Base(dep)
			}
		}
		set.File = append(set.File, d)
		return true
	})
	files, err := protodesc.NewFiles(set)
	if err != nil {
		return protoregistry.GlobalFiles // with the gaps
	}
	return files
})

// FindFileByPath implements protodesc.Resolver.
func (describedFiles) FindFileByPath(path string) (protoreflect.FileDescriptor, error) {
	return described().FindFileByPath(path)
}

// FindDescriptorByName implements protodesc.Resolver.
func (describedFiles) FindDescriptorByName(name protoreflect.FullName) (protoreflect.Descriptor, error) {
	return described().FindDescriptorByName(name)
}
