package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const someToken = "0123456789abcdef0123456789abcdef"

// content is what a file holds; empty if it is not there.
func content(t *testing.T, file string) string {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return string(data)
}

// Flags and LIMPET_ variables go into the file, a secret beside it.
func TestConfigSet(t *testing.T) {
	cleanEnv(t)
	t.Setenv("LIMPET_TOKEN", someToken)
	t.Setenv("LIMPET_JOIN", "board1,board2")
	t.Setenv("LIMPET_QUOTA_BACKEND_BYTES", "1")
	t.Setenv("ETCD_NAME", "somebody-else's")
	t.Setenv("LIMPET_ENDPOINTS", "for limpet status")
	file := filepath.Join(t.TempDir(), "config.yaml")
	out, err := limpet("config", "set", "--file", file, "--data-dir", "/var/lib/limpet", "--quota-backend-bytes=123456789", "--enable-pprof", "--watch-progress-notify-interval", "5s", "--token-file", "")
	if err != nil {
		t.Fatal(err)
	}
	token := filepath.Join(filepath.Dir(file), "token")
	want := "data-dir: /var/lib/limpet\n" +
		"watch-progress-notify-interval: 5s\n" +
		"token-file: " + token + "\n" +
		"join: board1,board2\n" +
		"quota-backend-bytes: 123456789\n" +
		"enable-pprof: true\n"
	if got := content(t, file); got != want {
		t.Errorf("the file: got\n%swant\n%s", got, want)
	}
	if got := content(t, token); got != someToken+"\n" {
		t.Errorf("the token's file: got %q", got)
	}
	for name, mode := range map[string]os.FileMode{file: 0o644, token: 0o600} {
		if info, err := os.Stat(name); err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: got %v, %v, want mode %o", name, info.Mode(), err, mode)
		}
	}
	if strings.Contains(out, someToken) || !strings.Contains(out, "join: board1,board2\n") {
		t.Errorf("got %q, want the changes without the token", out)
	}
	cfg := mustAsk(t, "--config-file", file)
	if cfg.DataDir != "/var/lib/limpet" || cfg.QuotaBytes != 123456789 || !cfg.Pprof || cfg.TokenFile != token {
		t.Errorf("limpet server reads %+v", cfg)
	}
}

// A file that somebody has written by hand stays theirs.
func TestConfigSetKeeps(t *testing.T) {
	cleanEnv(t)
	const before = `# The board in the shed.
name: shed # as on the label
client-transport-security:
  cert-file: /a.crt # the old one
  key-file: /a.key
quota-backend-bytes: 123456789
some-day: 7
`
	file := writeFile(t, "config.yaml", before)
	for _, c := range []struct {
		args []string
		old  string
		want string // in its place
		out  string
	}{
		{nil, "", "", file + ": no change\n"},
		{[]string{"--name", "shed"}, "", "", file + ": no change\n"},
		{[]string{"--name", "barn"}, "name: shed", "name: barn", "name: barn (was shed)\n"},
		{[]string{"--cert-file", "/b.crt"}, "cert-file: /a.crt", "cert-file: /b.crt", "cert-file: /b.crt (was /a.crt)\n"},
		{[]string{"--unset", "quota-backend-bytes", "--unset", "wal-dir"}, "quota-backend-bytes: 123456789\n", "", "quota-backend-bytes: its default\n"},
	} {
		if err := os.WriteFile(file, []byte(before), 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := limpet(append([]string{"config", "set", "--file", file}, c.args...)...)
		if err != nil || out != c.out {
			t.Errorf("%q: got %q, %v, want %q", c.args, out, err, c.out)
		}
		if got, want := content(t, file), strings.Replace(before, c.old, c.want, 1); got != want {
			t.Errorf("%q: got\n%swant\n%s", c.args, got, want)
		}
	}
}

// What a member could not start with changes nothing.
func TestConfigSetRefuses(t *testing.T) {
	cleanEnv(t)
	for _, c := range []struct {
		before string
		args   []string
		want   string
	}{
		{"", []string{"--election-timeout=100"}, "--election-timeout[100ms] should be at least as 5 times as --heartbeat-interval[100ms]"},
		{"", []string{"--token=short"}, "the token is not hexadecimal; make one with: limpet token generate"},
		{"", []string{"stray"}, `"stray" is not a valid flag; see limpet config set --help`},
		{"name: [a", nil, "is not valid YAML"},
		{"- name\n", nil, "is not a mapping of the flags' names to their values"},
		{"name: {a: b}\n", nil, "name is a mapping, want one value"},
		{"", []string{"--token-owner=nobody-of-this-name"}, "--token-owner: user: unknown user nobody-of-this-name"},
	} {
		file := writeFile(t, "config.yaml", c.before)
		_, err := limpet(append([]string{"config", "set", "--file", file}, c.args...)...)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q: got %v, want %q", c.args, err, c.want)
		}
		if left, err := os.ReadDir(filepath.Dir(file)); err != nil || len(left) != 1 || content(t, file) != c.before {
			t.Errorf("%q: left %v and %q, want %q as it was", c.args, left, content(t, file), c.before)
		}
	}
}

// TestConfigGet: what a file says, in whatever form of YAML; and that it does not say
// it.
func TestConfigGet(t *testing.T) {
	cleanEnv(t)
	for text, want := range map[string]string{
		"data-dir: /srv/lim # on the ssd\n":        "/srv/lim\n",
		"{\"data-dir\": \"/srv/lim\"}":             "/srv/lim\n",
		"\"data-dir\": /srv/lim\n":                 "/srv/lim\n",
		"data-dir : /srv/lim\n":                    "/srv/lim\n",
		"join: [board1, board2]\ndata-dir: '/x'\n": "/x\n",
		"name: a\n": "",
	} {
		file := filepath.Join(t.TempDir(), "config.yaml")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := limpet("config", "get", "--file", file, "data-dir")
		if out != want || (err == nil) != (want != "") {
			t.Errorf("%q: got %q, %v, want %q", text, out, err, want)
		}
	}
}

// TestConfigSetMendsTheToken: the same token again, in a file that others may read.
func TestConfigSetMendsTheToken(t *testing.T) {
	cleanEnv(t)
	t.Setenv("LIMPET_TOKEN", someToken)
	file := filepath.Join(t.TempDir(), "config.yaml")
	token := filepath.Join(filepath.Dir(file), "token")
	if err := os.WriteFile(token, []byte(someToken+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, change := range []bool{true, false} {
		out, err := limpet("config", "set", "--file", file, "--data-dir", "/var/lib/limpet")
		if err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(token); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("the token's file: %v, %v; want mode 600", info.Mode(), err)
		}
		if got := strings.Contains(out, "the token: in "); got != change {
			t.Errorf("a change of the token's file is told: %v, want %v", got, change)
		}
	}
}
