package main

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
)

// maxSize is what a binary may have at most, etcdctl included; 30 MB is the aim.
// Boards with 8 GB of flash have other things to keep.
const maxSize = 35_000_000

// target is an architecture, as install.sh and uname's answers name it.
type target struct {
	name string
	env  []string // what the go command needs to know: the oldest processors, so that all can run it
}

var targets = []target{
	{"amd64", []string{"GOARCH=amd64", "GOAMD64=v1"}},
	{"arm64", []string{"GOARCH=arm64", "GOARM64=v8.0"}},
	{"armv7", []string{"GOARCH=arm", "GOARM=7"}},
	{"riscv64", []string{"GOARCH=riscv64", "GORISCV64=rva20u64"}},
}

// targetsOf gives those of the named architectures, all if none is named.
func targetsOf(archs string) ([]target, error) {
	if archs == "" {
		return targets, nil
	}
	var out []target
	for _, name := range strings.Split(archs, ",") {
		t, ok := targetNamed(name)
		if !ok {
			return nil, fmt.Errorf("there is no architecture %q; there are %s", name, targetNames())
		}
		out = append(out, t)
	}
	return out, nil
}

func targetNamed(name string) (target, bool) {
	for _, t := range targets {
		if t.name == name {
			return t, true
		}
	}
	return target{}, false
}

func targetNames() string {
	var names []string
	for _, t := range targets {
		names = append(names, t.name)
	}
	return strings.Join(names, ", ")
}

func (t target) file() string { return "limpet-linux-" + t.name }

// build makes the binary. Nothing of the machine goes into it: no paths, no C
// compiler, no flags of the user's. What the go command would note of the commit is
// another thing in a clone than in a worktree, so the linker is told.
func (r release) build(t target, path string) error {
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-tags", r.tags,
		"-ldflags", fmt.Sprintf("-s -w -X main.version=%s -X limpet/cli.linkedCommit=%s", r.version, r.commit),
		"-o", path, ".")
	cmd.Dir = r.repo
	// An empty GOFLAGS would leave that of go env -w in force.
	cmd.Env = append(os.Environ(), "GOFLAGS=-mod=readonly", "GOEXPERIMENT=", "GOWORK=off", "CGO_ENABLED=0", "GOOS=linux")
	cmd.Env = append(cmd.Env, t.env...)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("build %s: %w", t.file(), err)
	}
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	fmt.Printf("%s of %s %s: %.1f MB, of %d at most\n", t.file(), r.version, r.commit, float64(info.Size())/1e6, maxSize/1_000_000)
	if info.Size() > maxSize {
		return fmt.Errorf("%s has %d bytes, more than %d: find out what it is made of (go version -m, go tool nm -size) and take some out", t.file(), info.Size(), maxSize)
	}
	return nil
}
