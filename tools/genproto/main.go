// Command genproto writes the Go files of .proto files beside them, with the
// plugins that etcd uses, and needs no protoc: it compiles the files itself.
// Run it by go generate in api/recipepb. Its arguments are a folder and the names
// of files there.
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/bufbuild/protocompile"
	_ "go.etcd.io/etcd/api/v3/etcdserverpb" // what the files import
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/pluginpb"
)

// plugins write messages, gRPC services and their JSON face.
var plugins = []string{
	"google.golang.org/protobuf/cmd/protoc-gen-go",
	"google.golang.org/grpc/cmd/protoc-gen-go-grpc",
	"github.com/grpc-ecosystem/grpc-gateway/v2/protoc-gen-grpc-gateway",
}

func main() {
	log.SetFlags(0)
	if err := generate(os.Args[1], os.Args[2:]); err != nil {
		log.Fatal(err)
	}
}

func generate(dir string, names []string) error {
	files, err := compile(dir, names)
	if err != nil {
		return err
	}
	req := &pluginpb.CodeGeneratorRequest{FileToGenerate: names, Parameter: proto.String("paths=source_relative"), ProtoFile: files}
	for _, plugin := range plugins {
		if err := run(plugin, req, dir); err != nil {
			return fmt.Errorf("%s: %w", plugin, err)
		}
	}
	return nil
}

// compile gives the described files, each behind those it imports.
func compile(dir string, names []string) ([]*descriptorpb.FileDescriptorProto, error) {
	c := protocompile.Compiler{
		Resolver:       protocompile.CompositeResolver{&protocompile.SourceResolver{ImportPaths: []string{dir}}, protocompile.ResolverFunc(imported)},
		SourceInfoMode: protocompile.SourceInfoStandard, // with comments
	}
	linked, err := c.Compile(context.Background(), names...)
	if err != nil {
		return nil, err
	}
	var out []*descriptorpb.FileDescriptorProto
	seen := map[string]bool{}
	var add func(protoreflect.FileDescriptor)
	add = func(f protoreflect.FileDescriptor) {
		if seen[f.Path()] {
			return
		}
		seen[f.Path()] = true
		for i := range f.Imports().Len() {
			add(f.Imports().Get(i).FileDescriptor)
		}
		out = append(out, protodesc.ToFileDescriptorProto(f))
	}
	for _, f := range linked {
		add(f)
	}
	return out, nil
}

// imported finds what is imported among the files that Go packages know. etcd's
// know themselves by their last name only.
func imported(path string) (protocompile.SearchResult, error) {
	known := path
	if strings.HasPrefix(path, "etcd/api/") {
		known = filepath.Base(path)
	}
	f, err := protoregistry.GlobalFiles.FindFileByPath(known)
	if err != nil {
		return protocompile.SearchResult{}, err
	}
	desc := protodesc.ToFileDescriptorProto(f)
	desc.Name = proto.String(path)
	return protocompile.SearchResult{Proto: desc}, nil
}

// run has a plugin write its files to dir.
func run(plugin string, req *pluginpb.CodeGeneratorRequest, dir string) error {
	in, err := proto.Marshal(req)
	if err != nil {
		return err
	}
	cmd := exec.Command("go", "tool", plugin)
	cmd.Stdin, cmd.Stderr = bytes.NewReader(in), os.Stderr
	answer, err := cmd.Output()
	if err != nil {
		return err
	}
	var resp pluginpb.CodeGeneratorResponse
	if err := proto.Unmarshal(answer, &resp); err != nil {
		return err
	}
	if resp.Error != nil {
		return errors.New(*resp.Error)
	}
	for _, f := range resp.File {
		if err := os.WriteFile(filepath.Join(dir, f.GetName()), []byte(f.GetContent()), 0o644); err != nil {
			return err
		}
	}
	return nil
}
