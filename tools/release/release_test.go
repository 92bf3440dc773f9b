package main

import (
	"archive/tar"
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

const sha = "7689af36f6b17689af36f6b17689af36f6b17689"

var commitTime = time.Date(2026, 5, 4, 3, 2, 1, 0, time.UTC)

func TestParse(t *testing.T) {
	for _, c := range []struct {
		args string
		want string // in the error
	}{
		{"-version v0.2.0", ""},
		{"-version v0.2.0-rc.1 -channel testing -arch arm64,riscv64", ""},
		{"-version v0.2.0-3-g7689af3-dirty", ""},
		{"", "make release VERSION=v0.2.0"},
		{"-version 0.2.0", `the version is "0.2.0"`},
		{"-version dev", `the version is "dev"`},
		{"-version v1.2.3/../x", `the version is "v1.2.3/../x"`},
		{"-version v0.2.0+dirty", `the version is "v0.2.0+dirty"`}, // + means something else in a URL, and nothing in an image's tag
		{"-version v0.2.0 -channel ../stable", `the channel is "../stable"`},
		{"-version v0.2.0 -arch armv6", `there is no architecture "armv6"; there are amd64, arm64, armv7, riscv64`},
		{"-version v0.2.0 -commit 7689af3", `the commit is "7689af3"`},
		{"-version v0.2.0 -commit= -time=", "build in a git checkout"},
		{"-version v0.2.0 -time yesterday", `of the time "yesterday"`},
		{"-version v0.2.0 all", `there is no argument "all"`},
	} {
		_, err := parse(append([]string{"-commit", sha, "-time", "1777863721"}, strings.Fields(c.args)...))
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%s: got %v, want no error", c.args, err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s: got %v, want %s", c.args, err, c.want)
		}
	}
	r, err := parse([]string{"-version", "v0.2.0", "-commit", sha + "-dirty", "-time", "1777863721"})
	if err != nil || len(r.targets) != 4 || !r.time.Equal(commitTime) {
		t.Errorf("got %d architectures, time %v, %v, want 4, %v", len(r.targets), r.time, err, commitTime)
	}
}

// A run that was broken off leaves nothing in the next one, and a release that is built again
// takes the place of the first.
func TestFolder(t *testing.T) {
	out := t.TempDir()
	for _, text := range []string{"first", "second"} {
		write(t, filepath.Join(out, ".v1.new", "torn"), "half")
		f, err := newFolder(filepath.Join(out, ".v1.new"))
		if err != nil {
			t.Fatal(err)
		}
		write(t, f.path("limpet-linux-arm64"), text)
		write(t, f.path("limpet-linux-arm64.cdx.json"), "{}")
		if err := f.seal(commitTime); err != nil {
			t.Fatal(err)
		}
		if err := f.publish(filepath.Join(out, "v1")); err != nil {
			t.Fatal(err)
		}
		f.discard()
		if got := list(t, out); !slices.Equal(got, []string{"v1"}) {
			t.Errorf("%s: folders: got %q, want v1 alone", text, got)
		}
		if got := read(t, filepath.Join(out, "v1", "limpet-linux-arm64")); got != text {
			t.Errorf("binary: got %q, want %q", got, text)
		}
	}
	want := []string{"limpet-linux-arm64", "limpet-linux-arm64.cdx.json", "limpet-linux-arm64.sha256", "sha256sums.txt"}
	if got := list(t, filepath.Join(out, "v1")); !slices.Equal(got, want) {
		t.Errorf("files: got %q, want %q", got, want)
	}
	// sha256sum's own answer to "second"
	const sum = "16367aacb67a4a017c8da8ab95682ccb390863780f7114dda0a0e0c55644c7c4  limpet-linux-arm64\n"
	if got := read(t, filepath.Join(out, "v1", "limpet-linux-arm64.sha256")); got != sum {
		t.Errorf("hash: got %q, want %q", got, sum)
	}
	if got := read(t, filepath.Join(out, "v1", "sha256sums.txt")); !strings.HasPrefix(got, sum) || strings.Count(got, "\n") != 2 {
		t.Errorf("hashes: got %q, want %q and one more line", got, sum)
	}
	if info, err := os.Stat(filepath.Join(out, "v1", "sha256sums.txt")); err != nil || !info.ModTime().Equal(commitTime) {
		t.Errorf("time of a file: got %v, %v, want the commit's", info.ModTime(), err)
	}
}

func TestReplace(t *testing.T) {
	path := filepath.Join(t.TempDir(), "channels", "stable")
	for _, text := range []string{"v1\n", "v2\n"} {
		if err := replace(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if got := read(t, path); got != text {
			t.Errorf("got %q, want %q", got, text)
		}
	}
	if got := list(t, filepath.Dir(path)); !slices.Equal(got, []string{"stable"}) {
		t.Errorf("files: got %q, want stable alone", got)
	}
}

func TestImage(t *testing.T) {
	path := filepath.Join(t.TempDir(), "image.tar")
	if err := writeImage(path, commitTime); err != nil {
		t.Fatal(err)
	}
	r := tar.NewReader(bytes.NewReader([]byte(read(t, path))))
	for _, want := range []tar.Header{
		{Name: "usr/local/bin/etcd", Linkname: "limpet"},
		{Name: "usr/local/bin/etcdctl", Linkname: "limpet"},
		{Name: "var/lib/limpet/", Uid: runAs, Gid: runAs},
	} {
		got, err := r.Next()
		if err != nil {
			t.Fatal(err)
		}
		if got.Name != want.Name || got.Linkname != want.Linkname || got.Uid != want.Uid || got.Gid != want.Gid || !got.ModTime.Equal(commitTime) {
			t.Errorf("got %+v, want %+v", got, want)
		}
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func list(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// The install.sh of a release knows where the release is; the one of the repository
// has the line for it.
func TestAddressed(t *testing.T) {
	script, err := os.ReadFile("../../install.sh")
	if err != nil {
		t.Fatal(err)
	}
	got, err := addressed(script, "https://example.org/limpet")
	if err != nil || !strings.Contains(string(got), "\nMIRROR=${INSTALL_LIMPET_MIRROR:-https://example.org/limpet}\n") {
		t.Errorf("got %v, want the address in the script", err)
	}
	if got, err := addressed(script, ""); err != nil || string(got) != string(script) {
		t.Errorf("without a mirror: got %v, want the script as it is", err)
	}
	if _, err := addressed([]byte("#!/bin/sh\n"), "https://example.org/limpet"); err == nil {
		t.Error("a script without the line was taken")
	}
}
