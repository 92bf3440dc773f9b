package kube

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// imagePath is the one folder with programs in limpet's image.
const imagePath = "/usr/local/bin"

// sandbox is what a container runtime makes of a pod with one container: a network
// namespace, a host name, and a root folder with nothing in it but the image's
// program, the pod's volumes, /proc and resolv.conf.
type sandbox struct {
	name   string
	net    netns
	ip     netip.Addr
	root   string
	user   *syscall.Credential
	folder string // holds root
}

// sandboxSpec says what to make.
type sandboxSpec struct {
	name, namespace string
	folder          string            // made, and removed with the sandbox
	program         string            // the image: this file, as /usr/local/bin/limpet
	volumes         map[string]string // folder here by path there
	readOnly        bool              // the root, apart from volumes
	user            *syscall.Credential
}

// launcher is the one thread that starts programs in sandboxes, and where their
// mounts are: they end with this process. What it starts gains no privileges.
var launcher = sync.OnceValues(func() (chan<- func(), error) {
	queue, ready := make(chan func()), make(chan error)
	// Owner: the test binary; ends with it.
	go func() {
		runtime.LockOSThread()
		ready <- errors.Join(
			unix.Unshare(unix.CLONE_FS|unix.CLONE_NEWNS|unix.CLONE_NEWUTS),
			unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
			unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
		)
		for launch := range queue {
			launch()
		}
	}()
	return queue, <-ready
})

// onLauncher calls f on that thread.
func onLauncher(f func() error) error {
	queue, err := launcher()
	if err != nil {
		return fmt.Errorf("prepare a thread for sandboxes: %w", err)
	}
	done := make(chan error)
	queue <- func() { done <- f() }
	return <-done
}

// newSandbox makes one.
func newSandbox(n *podNet, spec sandboxSpec) (_ *sandbox, err error) {
	s := &sandbox{name: spec.name, root: filepath.Join(spec.folder, "root"), user: spec.user, folder: spec.folder}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	if s.net, s.ip, err = n.plug(); err != nil {
		return nil, err
	}
	program := filepath.Join(imagePath, "limpet")
	folders := []string{imagePath, "etc", "proc"}
	for path := range spec.volumes {
		folders = append(folders, path)
	}
	for _, f := range folders {
		if err := os.MkdirAll(filepath.Join(s.root, f), 0o755); err != nil {
			return nil, err
		}
	}
	resolv := fmt.Sprintf("nameserver %s\nsearch %s.svc.%[3]s svc.%[3]s %[3]s\noptions ndots:5\n", hubIP, spec.namespace, clusterDomain)
	for file, text := range map[string]string{
		program: "", "etc/resolv.conf": resolv, "etc/hosts": fmt.Sprintf("127.0.0.1 localhost\n%s %s\n", s.ip, s.name),
	} {
		if err := os.WriteFile(filepath.Join(s.root, file), []byte(text), 0o644); err != nil {
			return nil, err
		}
	}
	return s, onLauncher(func() error {
		if err := unix.Mount(s.root, s.root, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("mount %s: %w", s.root, err)
		}
		for at, from := range spec.volumes {
			if err := unix.Mount(from, filepath.Join(s.root, at), "", unix.MS_BIND, ""); err != nil {
				return fmt.Errorf("mount %s: %w", at, err)
			}
		}
		errs := []error{
			unix.Mount(spec.program, filepath.Join(s.root, program), "", unix.MS_BIND, ""),
			unix.Mount("proc", filepath.Join(s.root, "proc"), "proc", 0, ""),
		}
		if spec.readOnly {
			errs = append(errs, unix.Mount("", s.root, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""))
		}
		return errors.Join(errs...)
	})
}

// command is a program of the sandbox that start starts.
func (s *sandbox) command(argv, env []string) (*exec.Cmd, error) {
	path := argv[0]
	if !strings.Contains(path, "/") {
		path = filepath.Join(imagePath, path)
	}
	if _, err := os.Stat(filepath.Join(s.root, path)); err != nil {
		return nil, fmt.Errorf("the image has no program %s", argv[0])
	}
	return &exec.Cmd{
		Path: path, Args: argv, Dir: "/", Env: append([]string{"PATH=" + imagePath, "HOSTNAME=" + s.name}, env...),
		SysProcAttr: &syscall.SysProcAttr{
			Setpgid: true, Pdeathsig: syscall.SIGKILL, Chroot: s.root, Credential: s.user, Cloneflags: syscall.CLONE_NEWUTS,
		},
	}, nil
}

// start starts cmd; its caller waits for its end.
func (s *sandbox) start(cmd *exec.Cmd) error {
	return onLauncher(func() error {
		return errors.Join(s.net.enter(), unix.Sethostname([]byte(s.name)), cmd.Start())
	})
}

// close takes it away. Volumes stay.
func (s *sandbox) close() error {
	err := onLauncher(func() error {
		if err := unix.Unmount(s.root, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("unmount %s: %w", s.root, err)
		}
		return nil
	})
	if s.net.file != nil {
		s.net.close()
	}
	// The mounts are the launcher's alone: from here, volumes are empty folders.
	return errors.Join(err, os.RemoveAll(s.folder))
}
