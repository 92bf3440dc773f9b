//go:build linux

package release

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"limpet/e2e/proc"
)

// needsBuildah skips where images cannot be built. buildah reads a Dockerfile as Docker does and needs
// no engine.
func needsBuildah(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("images are built by root")
	}
	for tool, pkg := range map[string]string{"buildah": "buildah", "unshare": "util-linux"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s, of Debian's package %s, is not here", tool, pkg)
		}
	}
}

// store keeps images; it ends with the test.
type store []string

func newStore(t *testing.T) store {
	dir := t.TempDir()
	s := store{"--root=" + dir + "/root", "--runroot=" + dir + "/run", "--storage-driver=vfs"}
	t.Cleanup(func() {
		if out, err := exec.Command("buildah", append(slices.Clone(s), "rm", "--all")...).CombinedOutput(); err != nil {
			t.Errorf("buildah rm: %v\n%s", err, out)
		}
	})
	return s
}

func (s store) buildah(t *testing.T, args ...string) string {
	t.Helper()
	return output(t, "", "buildah", append(slices.Clone(s), args...)...)
}

// image is one that was built: what a container's runtime gets.
type image struct {
	root         string // its files
	Architecture string
	Variant      string
	Config       struct {
		User         string
		Env          []string
		Entrypoint   []string
		Cmd          []string
		WorkingDir   string
		Volumes      map[string]any
		ExposedPorts map[string]any
	}
}

func (s store) build(t *testing.T, r folder, a arch) image {
	t.Helper()
	id := s.buildah(t, "build", "--quiet", "--isolation=chroot", "--platform="+a.platform, r.path(version))
	var of struct{ OCIv1 image }
	if err := json.Unmarshal([]byte(s.buildah(t, "inspect", "--type=image", id)), &of); err != nil {
		t.Fatal(err)
	}
	of.OCIv1.root = s.buildah(t, "mount", s.buildah(t, "from", "--pull-never", "--platform="+a.platform, id))
	return of.OCIv1
}

// TestImage builds deploy/Dockerfile for each platform and looks into the images.
func TestImage(t *testing.T) {
	needsBuildah(t)
	r := theRelease(t)
	s := newStore(t)
	for _, a := range chosen() {
		m := s.build(t, r, a)
		if got := strings.TrimSuffix("linux/"+m.Architecture+"/"+m.Variant, "/"); got != a.platform {
			t.Errorf("platform: got %s, want %s", got, a.platform)
		}
		if m.Config.User != "65532:65532" || !slices.Equal(m.Config.Entrypoint, []string{"limpet"}) || m.Config.Volumes["/var/lib/limpet"] == nil {
			t.Errorf("%s: got %+v, want user 65532:65532, entrypoint limpet, volume /var/lib/limpet", a.platform, m.Config)
		}
		for _, port := range []string{"2379/tcp", "2380/tcp", "2382/tcp", "2382/udp"} {
			if m.Config.ExposedPorts[port] == nil {
				t.Errorf("%s: port %s is not exposed", a.platform, port)
			}
		}
		files := proc.TreeOf(t, m.root)
		binary := proc.TreeOf(t, r.path(version))[a.file()]
		if got := files["usr/local/bin/limpet"]; got != binary {
			t.Errorf("%s: usr/local/bin/limpet is %s, want %s", a.platform, got, binary)
		}
		for _, link := range []string{"etcd", "etcdctl"} {
			if to, err := os.Readlink(filepath.Join(m.root, "usr/local/bin", link)); err != nil || to != "limpet" {
				t.Errorf("%s: usr/local/bin/%s leads to %q, %v, want limpet", a.platform, link, to, err)
			}
		}
		for path, what := range files {
			if strings.HasPrefix(what, "-") && path != "usr/local/bin/limpet" {
				t.Errorf("%s: there is a file %s, want the binary alone", a.platform, path)
			}
		}
	}
}

// TestImageRuns runs what the image says, as the user it says, with nothing but the image's files: no /proc,
// no /dev, no /tmp, no users, no time zones; and nothing of it can be written but the volume.
func TestImageRuns(t *testing.T) {
	needsBuildah(t)
	r := theRelease(t)
	i := slices.IndexFunc(chosen(), arch.native)
	if i < 0 {
		t.Skip("an image runs on its own processor, and E2E_ARCH names others")
	}
	m := newStore(t).build(t, r, chosen()[i])
	volume := t.TempDir()
	if err := os.Chmod(volume, 0o711); err != nil {
		t.Fatal(err)
	}
	data := filepath.Join(volume, "data")
	if err := os.Mkdir(data, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(data, 65532, 65532); err != nil { // as fsGroup does, or the runtime with a new volume
		t.Fatal(err)
	}

	client, peer := proc.FreeAddr(t), proc.FreeAddr(t)
	member := proc.NewProcess(t, "limpet in an image", "unshare")
	env := []string{
		"ETCD_LISTEN_CLIENT_URLS=http://" + client, "ETCD_ADVERTISE_CLIENT_URLS=http://" + client,
		"ETCD_LISTEN_PEER_URLS=http://" + peer, "ETCD_INITIAL_ADVERTISE_PEER_URLS=http://" + peer, "ETCD_INITIAL_CLUSTER=default=http://" + peer,
	}
	ctl := func(args ...string) string {
		t.Helper()
		argv := m.command(data, nil, append([]string{"etcdctl", "--endpoints=" + client}, args...)...)
		return program{path: argv[0]}.says(t, argv[1:]...)
	}

	serve(t, member, m.command(data, env, append(slices.Clone(m.Config.Entrypoint), m.Config.Cmd...)...)[1:]...)
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", member.PID()))
	if err != nil || !strings.Contains(string(status), "\nUid:\t65532\t65532\t65532\t65532\n") {
		t.Errorf("status of the process: got %s, %v, want user 65532", status, err)
	}
	if got := ctl("put", "greeting", "hello"); got != "OK" {
		t.Errorf("put: got %q, want OK", got)
	}
	member.Kill()

	// The same volume, found by a manifest for etcd.
	serve(t, member, m.command(data, env, "etcd", "--data-dir=/var/lib/limpet/default.limpet")[1:]...)
	if got := ctl("get", "--print-value-only", "greeting"); got != "hello" {
		t.Errorf("get after kill -9: got %q, want hello", got)
	}
	err = filepath.WalkDir(data, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if info, err := d.Info(); err == nil && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s has mode %v: others can read it", path, info.Mode())
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// command gives what runs argv in the image as a runtime would, with a folder as its volume.
func (m image) command(volume string, env []string, argv ...string) []string {
	user, group, _ := strings.Cut(m.Config.User, ":")
	const mounts = `
		mount --bind "$1" "$1"
		mount --bind "$2" "$1/var/lib/limpet"
		mount -o remount,bind,ro "$1"
		shift 2
		exec "$@"`
	out := append([]string{"unshare", "--mount", "sh", "-ec", mounts, "sh", m.root, volume, "env", "-i"}, m.Config.Env...)
	out = append(out, env...)
	out = append(out, unshare(), "--root="+m.root, "--wd="+m.Config.WorkingDir, "--setgid="+group, "--setuid="+user)
	return append(out, argv...)
}

// unshare is the tool's whole path: the PATH that the image sets is not the machine's.
func unshare() string {
	path, _ := exec.LookPath("unshare") // needsBuildah has looked
	return path
}
