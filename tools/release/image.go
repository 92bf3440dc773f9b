package main

import (
	"archive/tar"
	"bytes"
	"os"
	"time"
)

// runAs owns the data in a container: no user of any machine, and the number that
// distroless images made usual.
const runAs = 65532

// writeImage packs what deploy/Dockerfile adds to the binary. An image from scratch
// has no shell to make links and folders with.
func writeImage(path string, at time.Time) error {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, h := range []tar.Header{
		// Manifests for etcd name these two.
		{Typeflag: tar.TypeSymlink, Name: "usr/local/bin/etcd", Linkname: "limpet", Mode: 0o777},
		{Typeflag: tar.TypeSymlink, Name: "usr/local/bin/etcdctl", Linkname: "limpet", Mode: 0o777},
		{Typeflag: tar.TypeDir, Name: "var/lib/limpet/", Mode: 0o700, Uid: runAs, Gid: runAs},
	} {
		h.ModTime, h.Format = at, tar.FormatUSTAR
		if err := w.WriteHeader(&h); err != nil {
			return err
		}
	}
	if err := w.Close(); err != nil {
		return err
	}
	return os.WriteFile(path, out.Bytes(), 0o644)
}
