//go:build linux

package release

import (
	"context"
	"os/exec"
	"strings"
	"testing"
	"time"

	"limpet/e2e/proc"
)

// patience is long: an emulated processor is ten times slower than the machine, which others use, too.
const patience = 5 * time.Minute

// program is a limpet that can be run: as it is, by an emulator, in an image.
type program struct {
	before []string // command line in front of limpet's
	path   string   // of limpet
}

// command gives what runs limpet, or a link to it, with arguments.
func (p program) command(args ...string) []string {
	return append(append([]string{}, p.before...), append([]string{p.path}, args...)...)
}

// says runs a short command that has to succeed.
func (p program) says(t *testing.T, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	argv := p.command(args...)
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", cmd, err, out)
	}
	return strings.TrimSpace(string(out))
}

// serve starts a member and waits until it serves.
func serve(t *testing.T, p *proc.Process, argv ...string) {
	t.Helper()
	p.Launch(argv...)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := p.Log.Wait(ctx, "ready to serve client requests"); err != nil {
		t.Fatalf("%s: %v", p.Name, err)
	}
}

// TestMember starts each binary, writes with its own etcdctl, kills it and looks for what was written.
func TestMember(t *testing.T) {
	r := theRelease(t)
	for _, a := range chosen() {
		t.Run(a.name, func(t *testing.T) {
			p := program{path: r.path(version, a.file())}
			if !a.native() {
				emulator, err := exec.LookPath(a.emulator)
				if err != nil {
					t.Skipf("the processor is emulated by %s, of Debian's package qemu-user: it is not here", a.emulator)
				}
				p.before = []string{emulator}
			}
			if got, want := p.says(t, "version"), "limpet Version: "+version+"\nGit SHA: "+commit(t)+"\n"; !strings.HasPrefix(got, want) {
				t.Errorf("limpet version: got\n%s\nwant at first\n%s", got, want)
			}
			if got, want := p.says(t, "version"), "Go OS/Arch: linux/"+a.goarch; !strings.HasSuffix(got, want) {
				t.Errorf("limpet version: got\n%s\nwant at last %s", got, want)
			}
			client, peer := proc.FreeAddr(t), proc.FreeAddr(t)
			argv := p.command("server", "--data-dir="+t.TempDir()+"/data",
				"--listen-client-urls=http://"+client, "--advertise-client-urls=http://"+client,
				"--listen-peer-urls=http://"+peer, "--initial-advertise-peer-urls=http://"+peer, "--initial-cluster=default=http://"+peer)
			member := proc.NewProcess(t, a.file(), argv[0])
			ctl := func(args ...string) string {
				return p.says(t, append([]string{"etcdctl", "--endpoints=" + client, "--dial-timeout=2m", "--command-timeout=4m"}, args...)...)
			}
			serve(t, member, argv[1:]...)
			if got := ctl("put", "greeting", "hello from "+a.name); got != "OK" {
				t.Errorf("put: got %q, want OK", got)
			}
			member.Kill()
			serve(t, member, argv[1:]...)
			if got, want := ctl("get", "--print-value-only", "greeting"), "hello from "+a.name; got != want {
				t.Errorf("get after kill -9: got %q, want %q", got, want)
			}
		})
	}
}

// commit is what the checkout is at, and whether something was changed.
func commit(t *testing.T) string {
	t.Helper()
	repo := repository(t)
	sha := output(t, repo, "git", "rev-parse", "HEAD")
	if output(t, repo, "git", "status", "--porcelain") != "" {
		sha += "-dirty"
	}
	return sha
}
