package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"limpet/e2e/proc"
)

// etcdctl runs limpet's own etcdctl against a server; it must succeed.
func etcdctl(t *testing.T, s *proc.Server, args ...string) string {
	t.Helper()
	args = append([]string{"etcdctl", "--endpoints=" + s.ClientURL()}, args...)
	res := proc.Command{Path: proc.Binary(t, proc.Limpet), Args: args}.Run(t)
	if res.Code != 0 {
		t.Fatalf("%q ended with %d: %s", args, res.Code, res.Stderr)
	}
	return res.Stdout
}

// TestEtcdctl runs the built-in etcdctl under both of its names.
func TestEtcdctl(t *testing.T) {
	needsLimpet(t)
	server := proc.Start(t, subject())
	limpet := proc.Binary(t, proc.Limpet)
	link := filepath.Join(t.TempDir(), "etcdctl")
	if err := os.Symlink(limpet, link); err != nil {
		t.Fatal(err)
	}
	names := []struct {
		name, path string
		args       []string
	}{
		{"limpet etcdctl", limpet, []string{"etcdctl"}},
		{"link named etcdctl", link, nil},
	}
	steps := []struct {
		args []string
		want string // whole stdout, or what it must contain if it begins with *
		code int
	}{
		{[]string{"put", "a", "1"}, "OK\n", 0},
		{[]string{"get", "a"}, "a\n1\n", 0},
		{[]string{"get", "a", "--print-value-only"}, "1\n", 0},
		{[]string{"get", "a", "-w", "json"}, `*"value":"MQ=="`, 0},
		{[]string{"get", "nothing"}, "", 0},
		{[]string{"del", "a"}, "1\n", 0},
		{[]string{"member", "list"}, "*m1", 0},
		{[]string{"endpoint", "health"}, "", 0},
		{[]string{"endpoint", "status", "-w", "table"}, "*3.7", 0},
		{[]string{"endpoint", "hashkv"}, "*, ", 0},
		{[]string{"lease", "grant", "100"}, "*granted with TTL(100s)", 0},
		{[]string{"alarm", "list"}, "", 0},
		{[]string{"compact", "1000000"}, "", 1},
		{[]string{"defrag"}, "*Finished defragmenting", 0},
		{[]string{"no-such-command"}, "", 1},
		{[]string{"put", "only-a-key", "--no-such-flag"}, "", 1},
		{[]string{"version"}, "*etcdctl version: 3.7", 0},
	}
	for _, n := range names {
		for _, s := range steps {
			t.Run(n.name+" "+strings.Join(s.args, " "), func(t *testing.T) {
				args := append(append([]string{}, n.args...), s.args...)
				res := proc.Command{Path: n.path, Args: args, Env: []string{"ETCDCTL_ENDPOINTS=" + server.ClientURL()}}.Run(t)
				if (res.Code == 0) != (s.code == 0) {
					t.Errorf("exit code is %d, want %d; stderr %q", res.Code, s.code, res.Stderr)
				}
				want, part := strings.CutPrefix(s.want, "*")
				if part && !strings.Contains(res.Stdout, want) || !part && s.code == 0 && want != "" && res.Stdout != want {
					t.Errorf("stdout is %q, want %q", res.Stdout, s.want)
				}
				if s.code != 0 && res.Stderr == "" {
					t.Error("a failure without a word on stderr")
				}
			})
		}
	}
	t.Run("nobody there", func(t *testing.T) {
		args := []string{"etcdctl", "--endpoints=http://" + proc.FreeAddr(t), "--dial-timeout=300ms", "--command-timeout=1s", "get", "a"}
		if res := (proc.Command{Path: limpet, Args: args}).Run(t); res.Code == 0 || res.Stderr == "" {
			t.Errorf("exit code is %d with stderr %q, want a failure that says so", res.Code, res.Stderr)
		}
	})
	t.Run("standard input", func(t *testing.T) {
		snapshot := filepath.Join(t.TempDir(), "snapshot")
		etcdctl(t, server, "snapshot", "save", snapshot)
		info, err := os.Stat(snapshot)
		if err != nil || info.Size()%512 != 32 {
			t.Errorf("snapshot is %v (%v), want a size of 32 above a multiple of 512", info, err)
		}
	})
}

// TestStatusAndVersion reads what limpet says about itself and its members.
func TestStatusAndVersion(t *testing.T) {
	needsLimpet(t)
	limpet := proc.Binary(t, proc.Limpet)
	server := proc.Start(t, subject())
	t.Run("version", func(t *testing.T) {
		res := proc.Command{Path: limpet, Args: []string{"version"}}.Run(t)
		if res.Code != 0 || !strings.Contains(res.Stdout, "limpet Version:") || !strings.Contains(res.Stdout, "etcd Version: 3.7") {
			t.Errorf("exit code %d, stdout %q, stderr %q", res.Code, res.Stdout, res.Stderr)
		}
	})
	t.Run("status as text", func(t *testing.T) {
		res := proc.Command{Path: limpet, Args: []string{"status", "--endpoints=" + server.ClientURL()}}.Run(t)
		if res.Code != 0 || !strings.Contains(res.Stdout, "m1") || !strings.Contains(res.Stdout, "leader") {
			t.Errorf("exit code %d, stdout %q, stderr %q; want the member's name and role", res.Code, res.Stdout, res.Stderr)
		}
	})
	t.Run("status as JSON", func(t *testing.T) {
		res := proc.Command{Path: limpet, Args: []string{"status", "--endpoints=" + server.ClientURL(), "-o", "json"}}.Run(t)
		if res.Code != 0 || !json.Valid([]byte(res.Stdout)) {
			t.Errorf("exit code %d, stdout %q, stderr %q; want JSON", res.Code, res.Stdout, res.Stderr)
		}
	})
	t.Run("status of nobody", func(t *testing.T) {
		res := proc.Command{Path: limpet, Args: []string{"status", "--timeout=1s", "--endpoints=http://" + proc.FreeAddr(t)}}.Run(t)
		if res.Code != 1 || res.Stderr == "" && res.Stdout == "" {
			t.Errorf("exit code %d, stdout %q, stderr %q; want 1 and a word", res.Code, res.Stdout, res.Stderr)
		}
	})
	t.Run("no such command", func(t *testing.T) {
		refused(t, proc.Command{Path: limpet, Args: []string{"frobnicate"}}.Run(t), 1, "frobnicate")
	})
	t.Run("help", func(t *testing.T) {
		res := proc.Command{Path: limpet, Args: []string{"--help"}}.Run(t)
		if res.Code != 0 || !strings.Contains(res.Stdout, "etcdctl") {
			t.Errorf("exit code %d, stdout %q", res.Code, res.Stdout)
		}
	})
}

// TestConfiguration gives the same settings in all the ways there are. --max-txn-ops=1 is the one
// whose effect can be seen from outside; --name shows in the member list.
func TestConfiguration(t *testing.T) {
	needsLimpet(t)
	settings := func(s *proc.Server) map[string]string {
		return map[string]string{
			"name": "from-elsewhere", "data-dir": s.DataDir, "max-txn-ops": "1",
			"listen-client-urls": s.ClientURL(), "advertise-client-urls": s.ClientURL(),
			"listen-peer-urls": s.PeerURL(), "initial-advertise-peer-urls": s.PeerURL(),
			"initial-cluster": "from-elsewhere=" + s.PeerURL(),
		}
	}
	variables := func(prefix string, settings map[string]string) (vars []string) {
		for flag, value := range settings {
			vars = append(vars, prefix+strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))+"="+value)
		}
		return vars
	}
	file := func(t *testing.T, settings map[string]string) string {
		text := "# a comment\nunknown-key: true\nwatch-progress-notify-interval: 5000000000\n"
		for flag, value := range settings {
			text += fmt.Sprintf("%s: %s\n", flag, value)
		}
		path := filepath.Join(t.TempDir(), "limpet.yaml")
		write(t, path, text)
		return path
	}
	ways := []struct {
		name string
		set  func(t *testing.T, s *proc.Server) proc.Option
	}{
		{"ETCD_ variables", func(t *testing.T, s *proc.Server) proc.Option {
			return proc.Bare(nil, append(variables("ETCD_", settings(s)), "ETCD_PORT=tcp://10.0.0.1:2379", "ETCD_ON_K8S=yes"))
		}},
		{"LIMPET_ variables", func(t *testing.T, s *proc.Server) proc.Option {
			return proc.Bare(nil, variables("LIMPET_", settings(s)))
		}},
		{"LIMPET_ wins over ETCD_", func(t *testing.T, s *proc.Server) proc.Option {
			return proc.Bare(nil, append(variables("LIMPET_", settings(s)), "ETCD_NAME=loser", "ETCD_MAX_TXN_OPS=100"))
		}},
		{"flags win over variables", func(t *testing.T, s *proc.Server) proc.Option {
			return proc.Bare([]string{"--name=from-elsewhere", "--max-txn-ops=1"}, append(variables("ETCD_", settings(s)), "LIMPET_NAME=loser", "LIMPET_MAX_TXN_OPS=100"))
		}},
		{"config file", func(t *testing.T, s *proc.Server) proc.Option {
			return proc.Bare([]string{"--config-file=" + file(t, settings(s))}, nil)
		}},
		{"config file wins over everything", func(t *testing.T, s *proc.Server) proc.Option {
			return proc.Bare([]string{"--name=loser", "--max-txn-ops=100"}, []string{"ETCD_CONFIG_FILE=" + file(t, settings(s)), "ETCD_NAME=loser"})
		}},
	}
	for _, way := range ways {
		t.Run(way.name, func(t *testing.T) {
			s := proc.New(t, proc.Limpet)
			way.set(t, s)(s)
			s.Run()
			if got := etcdctl(t, s, "member", "list"); !strings.Contains(got, "from-elsewhere") {
				t.Errorf("members are %q, want one named from-elsewhere", got)
			}
			if _, err := os.Stat(s.DataDir); err != nil {
				t.Errorf("the data is elsewhere: %v", err)
			}
			two := proc.Command{
				Path:  proc.Binary(t, proc.Limpet),
				Args:  []string{"etcdctl", "--endpoints=" + s.ClientURL(), "txn"},
				Setup: stdin("\nput a 1\nput b 2\n\n\n"),
			}.Run(t)
			if !strings.Contains(two.Stderr, "too many operations") {
				t.Errorf("a transaction of two ended with %d, %q, want a refusal", two.Code, two.Stderr)
			}
		})
	}
}

func stdin(text string) func(*exec.Cmd) {
	return func(cmd *exec.Cmd) { cmd.Stdin = strings.NewReader(text) }
}
