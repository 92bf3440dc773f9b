package kube

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// StoreKind is which program holds the data.
type StoreKind string

// The stores the stories can run on.
const (
	Limpet StoreKind = "limpet"
	Etcd   StoreKind = "etcd"
)

// Binaries are the paths of the programs a cluster is made of.
type Binaries struct {
	StoreKind         StoreKind
	Store             string
	APIServer         string
	ControllerManager string
	Kubectl           string
	Limpet            string // what pods run, whatever the store is
}

// kubeFlags build the three Kubernetes programs. Modules carry no release stamp,
// and clients parse the version.
var kubeFlags = []string{"-trimpath", "-ldflags", "-s -w -X k8s.io/component-base/version.gitVersion=v1.37.2"}

// BuildBinaries builds whatever is missing or stale. The go command decides
// that: with its build cache warm, this takes seconds; the first time,
// Kubernetes takes ten minutes or so on two cores.
func BuildBinaries(ctx context.Context) (b Binaries, err error) {
	// The source path of this file may be trimmed away; the go command knows the
	// module from the working directory, which for a test is its package's.
	out, err := exec.CommandContext(ctx, "go", "env", "GOMOD").Output()
	if err != nil {
		return b, fmt.Errorf("go env GOMOD: %w", err)
	}
	module := filepath.Dir(strings.TrimSpace(string(out)))
	e2e := filepath.Dir(module)
	repository := filepath.Dir(e2e)
	folder := os.Getenv("LIMPET_E2E_BIN")
	if folder == "" {
		folder = filepath.Join(repository, ".cache", "bin")
	}
	if b.StoreKind, err = storeKindFromEnv(); err != nil {
		return b, err
	}
	for name, path := range map[string]*string{
		"kube-apiserver": &b.APIServer, "kube-controller-manager": &b.ControllerManager, "kubectl": &b.Kubectl,
	} {
		if *path, err = build(ctx, module, folder, name, "k8s.io/kubernetes/cmd/"+name, kubeFlags...); err != nil {
			return b, err
		}
	}
	if given := os.Getenv("LIMPET_BIN"); given != "" {
		b.Limpet, err = filepath.Abs(given)
	} else {
		b.Limpet, err = build(ctx, repository, folder, "limpet", ".")
	}
	if b.Store = b.Limpet; err == nil && b.StoreKind == Etcd {
		// From the module above: here, etcd would move the versions that this
		// Kubernetes was released with.
		b.Store, err = build(ctx, e2e, folder, "etcd", "go.etcd.io/etcd/server/v3")
	}
	return b, err
}

// build builds the main package pkg of the module into folder/name. It holds
// the lock that all end-to-end modules share, as they share the folder.
func build(ctx context.Context, module, folder, name, pkg string, flags ...string) (string, error) {
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return "", err
	}
	lock, err := os.OpenFile(filepath.Join(folder, ".lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return "", err
	}
	defer lock.Close() // gives the lock back
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return "", fmt.Errorf("lock %s: %w", lock.Name(), err)
	}
	path := filepath.Join(folder, name)
	cmd := exec.CommandContext(ctx, "go", append(append([]string{"build", "-o", path}, flags...), pkg)...)
	cmd.Dir = module
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off")
	if text, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%s: %w\n%s", cmd, err, text)
	}
	return path, nil
}

// errStoreKind names the two stores there are.
var errStoreKind = errors.New("STORE must be limpet or etcd")

// storeKindFromEnv reads STORE; unset means limpet.
func storeKindFromEnv() (StoreKind, error) {
	switch kind := StoreKind(os.Getenv("STORE")); kind {
	case "":
		return Limpet, nil
	case Limpet, Etcd:
		return kind, nil
	default:
		return "", fmt.Errorf("%w, got %q", errStoreKind, kind)
	}
}
