//go:build linux

package release

import (
	"bufio"
	"context"
	"debug/elf"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"limpet/e2e/proc"
)

const (
	version = "v7.8.9-e2e.1"
	maxSize = 35_000_000

	// A cold build of an architecture takes minutes of a processor that others use, too.
	buildDeadline = 30 * time.Minute
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) { built.remove(); os.Exit(code) }))
}

// arch is an architecture of releases.
type arch struct {
	name     string // in the names of files
	platform string // of an image
	goarch   string
	emulator string
	machine  elf.Machine
}

var archs = []arch{
	{"amd64", "linux/amd64", "amd64", "qemu-x86_64", elf.EM_X86_64},
	{"arm64", "linux/arm64", "arm64", "qemu-aarch64", elf.EM_AARCH64},
	{"armv7", "linux/arm/v7", "arm", "qemu-arm", elf.EM_ARM},
	{"riscv64", "linux/riscv64", "riscv64", "qemu-riscv64", elf.EM_RISCV},
}

func (a arch) native() bool { return a.goarch == runtime.GOARCH }

func (a arch) file() string { return "limpet-linux-" + a.name }

// chosen gives the architectures to look at: those that E2E_ARCH names, or all, or the machine's.
func chosen() []arch {
	named := os.Getenv("E2E_ARCH")
	return slices.DeleteFunc(slices.Clone(archs), func(a arch) bool {
		switch {
		case named != "":
			return !slices.Contains(strings.Split(named, ","), a.name)
		case long():
			return false
		default:
			return !a.native()
		}
	})
}

func long() bool { return os.Getenv("E2E_LONG") == "1" }

// built is the release that all tests of the process look at.
var built struct {
	folder
	once sync.Once
	err  error
}

// folder is the folder of all releases.
type folder struct{ dist string }

func (f folder) path(elem ...string) string {
	return filepath.Join(append([]string{f.dist}, elem...)...)
}

func (f folder) remove() { _ = os.RemoveAll(f.dist) }

// theRelease builds it at first use.
func theRelease(t *testing.T) folder {
	t.Helper()
	if len(chosen()) == 0 {
		t.Skipf("there are no releases for %s, or for what E2E_ARCH names", runtime.GOARCH)
	}
	built.once.Do(func() {
		if built.dist, built.err = os.MkdirTemp("", "limpet-release-"); built.err == nil {
			built.err = makeRelease(repository(t), built.dist, chosen())
		}
	})
	if built.err != nil {
		t.Fatalf("make release: %v", built.err)
	}
	return built.folder
}

// makeRelease is the command as people type it.
func makeRelease(repo, dist string, of []arch, env ...string) error {
	var names []string
	for _, a := range of {
		names = append(names, a.name)
	}
	ctx, cancel := context.WithTimeout(context.Background(), buildDeadline)
	defer cancel()
	cmd := exec.CommandContext(ctx, "make", "release", "VERSION="+version, "DIST="+dist, "ARCH="+strings.Join(names, ","))
	cmd.Dir, cmd.Env = repo, append(os.Environ(), env...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	return cmd.Run()
}

func repository(t *testing.T) string {
	t.Helper()
	return output(t, "", "git", "rev-parse", "--show-toplevel")
}

// output runs a tool that has to succeed.
func output(t *testing.T, dir, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir = dir
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s", cmd, err, out)
	}
	return strings.TrimSpace(string(out))
}

// TestFolder compares the folder with what install.sh and mirrors rely on.
func TestFolder(t *testing.T) {
	r := theRelease(t)
	installer := exists(filepath.Join(repository(t), "install.sh"))
	all := []string{"channels/stable"}
	if installer {
		all = append(all, "install.sh")
	}
	summed := []string{"Dockerfile", "limpet-image.tar"}
	if installer {
		summed = append(summed, "install.sh")
	}
	for _, a := range chosen() {
		summed = append(summed, a.file(), a.file()+".cdx.json")
		all = append(all, version+"/"+a.file()+".sha256")
	}
	for _, name := range summed {
		all = append(all, version+"/"+name)
	}
	all = append(all, version+"/sha256sums.txt")
	slices.Sort(all)
	slices.Sort(summed)

	var got []string
	for name := range proc.TreeOf(t, r.dist) {
		if info, err := os.Stat(r.path(name)); err != nil || !info.IsDir() {
			got = append(got, name)
		}
	}
	slices.Sort(got)
	if !slices.Equal(got, all) {
		t.Errorf("files: got\n%q\nwant\n%q", got, all)
	}
	if text, err := os.ReadFile(r.path("channels/stable")); err != nil || string(text) != version+"\n" {
		t.Errorf("channels/stable: got %q, %v, want %q", text, err, version+"\n")
	}
	if got := names(t, r.path(version, "sha256sums.txt")); !slices.Equal(got, summed) {
		t.Errorf("sha256sums.txt is about\n%q\nwant\n%q", got, summed)
	}
	output(t, r.path(version), "sha256sum", "--check", "--strict", "--quiet", "sha256sums.txt")
	for _, a := range chosen() {
		if got := names(t, r.path(version, a.file()+".sha256")); !slices.Equal(got, []string{a.file()}) {
			t.Errorf("%s.sha256 is about %q, want the binary", a.file(), got)
		}
		output(t, r.path(version), "sha256sum", "--check", "--strict", "--quiet", a.file()+".sha256")
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// names gives the second column of what sha256sum has written.
func names(t *testing.T, path string) (names []string) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		_, name, _ := strings.Cut(lines.Text(), "  ")
		names = append(names, name)
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	return names
}

// TestBinary reads the binaries' headers: for the right processor, complete, small.
func TestBinary(t *testing.T) {
	r := theRelease(t)
	for _, a := range chosen() {
		path := r.path(version, a.file())
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if info.Size() > maxSize || info.Mode().Perm() != 0o755 {
			t.Errorf("%s: got %d bytes of mode %v, want at most %d of 0755", a.file(), info.Size(), info.Mode(), maxSize)
		}
		f, err := elf.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if f.Machine != a.machine {
			t.Errorf("%s is for %v, want %v", a.file(), f.Machine, a.machine)
		}
		for _, p := range f.Progs {
			if p.Type == elf.PT_INTERP || p.Type == elf.PT_DYNAMIC {
				t.Errorf("%s has a segment %v: it is not static", a.file(), p.Type)
			}
		}
		if f.Section(".symtab") != nil || f.Section(".debug_info") != nil {
			t.Errorf("%s is not stripped", a.file())
		}
	}
}

// TestSBOM looks for what is certainly in the binary, and for its hash and license.
func TestSBOM(t *testing.T) {
	r := theRelease(t)
	for _, a := range chosen() {
		text, err := os.ReadFile(r.path(version, a.file()+".cdx.json"))
		if err != nil {
			t.Fatal(err)
		}
		type component struct {
			Name, Version string
			Hashes        []struct{ Alg, Content string }
			Evidence      struct{ Licenses []any }
		}
		var bom struct {
			BOMFormat  string
			Metadata   struct{ Component component }
			Components []component
		}
		if err := json.Unmarshal(text, &bom); err != nil {
			t.Fatal(err)
		}
		if m := bom.Metadata.Component; bom.BOMFormat != "CycloneDX" || m.Name != "limpet" || m.Version != version {
			t.Errorf("%s: got %s of %s %s, want CycloneDX of limpet %s", a.file(), bom.BOMFormat, m.Name, m.Version, version)
		}
		for _, module := range []string{"std", "modernc.org/sqlite", "github.com/hashicorp/raft", "go.etcd.io/etcd/etcdctl/v3"} {
			i := slices.IndexFunc(bom.Components, func(c component) bool { return c.Name == module })
			switch {
			case i < 0:
				t.Errorf("%s: no %s", a.file(), module)
			case module == "std":
			case bom.Components[i].Version == "" || len(bom.Components[i].Hashes) == 0 || len(bom.Components[i].Evidence.Licenses) == 0:
				t.Errorf("%s: got %+v, want a version, a hash and a license", a.file(), bom.Components[i])
			}
		}
	}
}

// TestReproducible builds two clones, in folders of different names and with build caches of their
// own, and compares everything, times and modes of files too.
func TestReproducible(t *testing.T) {
	repo := repository(t)
	var trees [2]proc.Tree
	for i, name := range []string{"a", "a-longer/name"} {
		folder := filepath.Join(t.TempDir(), name)
		clone := filepath.Join(folder, "limpet")
		output(t, "", "git", "clone", "--quiet", repo, clone)
		dist := filepath.Join(folder, "dist")
		var env []string
		if long() {
			env = []string{"GOCACHE=" + filepath.Join(folder, "cache")}
		}
		if err := makeRelease(clone, dist, chosen(), env...); err != nil {
			t.Fatalf("make release in %s: %v", clone, err)
		}
		trees[i] = proc.TreeOf(t, dist)
		for path := range trees[i] {
			info, err := os.Lstat(filepath.Join(dist, path))
			if err != nil {
				t.Fatal(err)
			}
			if strings.HasPrefix(path, version+"/") { // what is left out changes with each release
				trees[i][path] += " of " + info.ModTime().UTC().Format(time.RFC3339)
			}
		}
		_ = os.RemoveAll(filepath.Join(folder, "cache"))
	}
	for path, first := range trees[0] {
		if second := trees[1][path]; second != first {
			t.Errorf("%s: got %s in one clone, %s in the other", path, first, second)
		}
	}
	if len(trees[0]) != len(trees[1]) {
		t.Errorf("got %d files in one clone, %d in the other", len(trees[0]), len(trees[1]))
	}
}
